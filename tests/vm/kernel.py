"""Debian's stock kernel, unpacked into a cache outside the checkout, never installed.

On Debian it is the one of the release, by the apt of the machine. Elsewhere apt does not know it: there a private apt,
with directories and sources of its own, gets it from Debian's archive. What that is signed with comes as a package of
the machine's own distribution.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHIVE = f"deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/debian bookworm main"
"""Debian 12: the oldest release whose kernel the tests are run with, hence the one whose keys every machine has."""


def cache() -> Path:
    """Where downloads and remembered answers live."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "kube-router"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _current_package(apt: tuple[str, ...]) -> str:
    """The kernel package that Debian's meta package stands for now; empty when apt's lists do not say."""
    words = ["apt-cache", *apt, "depends", "--important", META_PACKAGE]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        word, _, name = line.strip().partition("Depends: ")
        if not word and name.startswith("linux-image-"):
            return name
    return ""


def _private(folder: Path, source: str) -> tuple[str, ...]:
    """Options of an apt that knows one source and nothing of this machine's packages; its lists are fetched."""
    (folder / "state" / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"{source}\n")
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "Acquire::Languages": "none",
        # The user to whom root's apt would step down may not enter root's cache.
        **({"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}),
    }
    apt = tuple(f"-o{name}={value}" for name, value in options.items())
    _run(["apt-get", *apt, "-q", "--error-on=any", "update"], folder)
    return apt


def _run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, timeout=300, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[0]} {words[-1]}: {done.stderr.strip()}")


def _unpack(name: str, home: Path, draft: Path, apt: tuple[str, ...]) -> None:
    """Download a kernel package and have its content at `home`, whole or not at all."""
    _run(["apt-get", *apt, "download", name], draft)
    (package,) = draft.glob("*.deb")
    unpacked = draft / "unpacked"
    subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True)
    subprocess.run(["depmod", "-b", str(unpacked), name.removeprefix("linux-image-")], check=True)
    shutil.rmtree(home, ignore_errors=True)
    unpacked.rename(home)


def kernel() -> Path:
    """A bootable kernel image with its modules beside it (`../lib/modules`), downloaded when it is not there yet.

    Where apt's lists do not name one, the latest that was ever downloaded will do.
    """
    folder = cache() / "kernels"
    folder.mkdir(exist_ok=True)
    return fetch(folder, _current_package(()))


def fetch(folder: Path, name: str, source: str = ARCHIVE) -> Path:
    """The image of the kernel package `name`, of which `folder` has a directory each.

    Without a name it is the latest in the folder, or else the one of `source`, a line for sources.list(5).
    """
    name = name or max((entry.name for entry in folder.glob("linux-image-*")), key=_numbers, default="")
    if name and _image(folder, name).exists():
        return _image(folder, name)
    draft = folder / f".draft.{os.getpid()}"
    draft.mkdir()
    try:
        apt = () if name else _private(draft / "apt", source)
        name = name or _current_package(apt)
        if not name:
            raise RuntimeError(f"{META_PACKAGE} names no kernel package in: {source}")
        _unpack(name, folder / name, draft, apt)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _image(folder, name)


def _image(folder: Path, name: str) -> Path:
    return folder / name / "boot" / f"vmlinuz-{name.removeprefix('linux-image-')}"


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]
