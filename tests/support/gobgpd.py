"""The gobgpd programs that tests run: Debian's of version 3, and one of version 4 where there is one or can be made."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

V3 = "gobgpd"
"""In PATH."""
RELEASE = "v4.8.0"
MODULE = f"github.com/osrg/gobgp/v4/cmd/gobgpd@{RELEASE}"
BOUND = 400.0
"""Seconds that building may take, download and all; it takes under a minute where the network is near."""
_TOOLCHAINS = ("/usr/local/go/bin", "/usr/lib/go/bin", "/usr/lib/go-1.24/bin")


class Missing(Exception):
    """There is no such gobgpd here; the text says why."""


def cache() -> Path:
    """Where a built program stays: outside the checkout, and of the user who runs the tests."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kube-router-tests" / f"gobgp-{RELEASE}"


def v4(run: str = "") -> str:
    """The path of a gobgpd of version 4. `GOBGPD_V4` names one, else it is built once. Raises Missing.

    `run` names this run of the tests: what failed for one of its processes is not tried again by the others.
    """
    named = os.environ.get("GOBGPD_V4")
    if named is not None:
        if not os.access(named, os.X_OK):
            raise Missing(f"GOBGPD_V4 names {named}, which is no program")
        return named
    home = cache()
    program, failure = home / "gobgpd", home / "failure"
    home.mkdir(parents=True, exist_ok=True)
    # Tests run in several processes, and one of them is to build.
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            known = failure.read_text().split("\n", 1) if failure.exists() else ["", ""]
            if run and known[0] == run:
                raise Missing(known[1])
            try:
                _build(home)
            except Missing as error:
                failure.write_text(f"{run}\n{error}")
                raise
    return str(program)


def _build(home: Path) -> None:
    go = shutil.which("go", path=os.pathsep.join((os.environ.get("PATH", ""), *_TOOLCHAINS)))
    if go is None:
        raise Missing("no gobgpd 4: GOBGPD_V4 names none, and there is no Go toolchain to build one")
    # Only what is whole appears under its name.
    place = home / "building"
    shutil.rmtree(place, ignore_errors=True)
    environment = {**os.environ, "GOBIN": str(place), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    try:
        done = subprocess.run(
            [go, "install", MODULE], env=environment, capture_output=True, text=True, timeout=BOUND, check=False
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"no gobgpd 4: it was not built within {BOUND:g} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["go install failed"])[-1]
        raise Missing(f"no gobgpd 4: {last}")
    (place / "gobgpd").rename(home / "gobgpd")
