"""`python -m tests.lab.clean`: remove what labs of dead processes left behind; `--all` ends kept demos first."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.lab.look import homes
from tests.support.lab import janitor

BOUND = 20.0


def end_kept() -> None:
    """Ask every kept demo to take its lab down, and wait for it."""
    for home in homes():
        pid = janitor.owner(home.name)
        if pid is None or b"tests.lab.demo" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            continue
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + BOUND
        while janitor.running(pid) and time.monotonic() < end:
            time.sleep(0.05)
        print(f"ended the demo of process {pid}")


if __name__ == "__main__":
    if "--all" in sys.argv[1:]:
        end_kept()
    for name in janitor.clean():
        print(f"removed {name}")
