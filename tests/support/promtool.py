"""Prometheus's own judge of metrics, alerts and tests of alerts; `.ci/setup` puts it into the virtual environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def promtool(words: Sequence[str], text: str = "") -> tuple[int, str]:
    """Run it with `text` on its standard input; its exit status, and all that it says."""
    beside = Path(sys.executable).parent / "promtool"
    program = str(beside) if beside.exists() else shutil.which("promtool")
    assert program is not None, "promtool is not installed: .ci/setup installs it"
    done = subprocess.run([program, *words], input=text, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr
