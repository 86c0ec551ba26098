"""`python -m tests.support.helm` builds a helm, once, and says where; tests of the chart use it where it is there.

It takes a Go toolchain and one to three minutes, all of the processor: tests do not build it themselves, for others
that run beside them count seconds. Whoever runs all tests, such as `.ci/run`, has it built before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.kubectl import Missing, cache

RELEASE = "v3.16.4"
MODULE = f"helm.sh/helm/v3/cmd/helm@{RELEASE}"
BOUND = 400.0
"""Seconds that building may take, download and all."""
KUBERNETES = "1.30.0"
"""For which version charts are rendered; a helm built from source assumes one that is too old for anything."""
_TOOLCHAINS = ("/usr/local/go/bin", "/usr/lib/go/bin", "/usr/lib/go-1.24/bin")


def _home() -> Path:
    return cache() / f"helm-{RELEASE}"


def helm() -> str:
    """The path of a helm: the one that was built, else the one in PATH. Raises Missing."""
    program = _home() / "helm"
    found = str(program) if program.is_file() else shutil.which("helm")
    if found is None:
        raise Missing("no helm in PATH, and none was built: python -m tests.support.helm")
    return found


def build() -> str:
    """Build it unless it is there; the path. Raises Missing."""
    program = _home() / "helm"
    if program.is_file():
        return str(program)
    go = shutil.which("go", path=os.pathsep.join((os.environ.get("PATH", ""), *_TOOLCHAINS)))
    if go is None:
        raise Missing("no helm: there is no Go toolchain to build one")
    # Only what is whole appears under its name.
    place = _home() / "building"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    environment = {**os.environ, "GOBIN": str(place), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    words = [go, "install", "-ldflags=-s -w", MODULE]
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=BOUND, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"no helm: it was not built within {BOUND:g} s") from None
    if done.returncode:
        raise Missing(f"no helm: {(done.stderr.strip().splitlines() or ['go install failed'])[-1]}")
    (place / "helm").rename(program)
    shutil.rmtree(place)
    return str(program)


if __name__ == "__main__":
    try:
        print(build())
    except Missing as error:
        sys.exit(str(error))
