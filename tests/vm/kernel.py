"""Debian's stock kernel, unpacked into a cache outside the checkout, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

META_PACKAGE = "linux-image-amd64"


def cache() -> Path:
    """Where downloads and remembered answers live."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "kube-router"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _current_package() -> str:
    """The kernel package that Debian's meta package stands for now; empty when apt's lists do not say."""
    listed = subprocess.run(
        ["apt-cache", "depends", "--important", META_PACKAGE], capture_output=True, text=True, check=False
    ).stdout
    for line in listed.splitlines():
        word, _, name = line.strip().partition("Depends: ")
        if not word and name.startswith("linux-image-"):
            return name
    return ""


def kernel() -> Path:
    """A bootable kernel image with its modules beside it (`../lib/modules`), downloaded when it is not there yet.

    Without apt's lists the latest one that was ever downloaded will do.
    """
    folder = cache() / "kernels"
    folder.mkdir(exist_ok=True)
    name = _current_package() or max((entry.name for entry in folder.glob("linux-image-*")), default="")
    if not name:
        raise RuntimeError(f"{META_PACKAGE} names no kernel package; has `apt-get update` run?")
    home = folder / name
    image = home / "boot" / f"vmlinuz-{name.removeprefix('linux-image-')}"
    if not image.exists():
        draft = folder / f".{name}.{os.getpid()}"
        draft.mkdir()
        try:
            subprocess.run(["apt-get", "download", name], cwd=draft, check=True, timeout=300, capture_output=True)
            (package,) = draft.glob("*.deb")
            unpacked = draft / "unpacked"
            subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True)
            release = name.removeprefix("linux-image-")
            subprocess.run(["depmod", "-b", str(unpacked), release], check=True)
            shutil.rmtree(home, ignore_errors=True)
            unpacked.rename(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return image
