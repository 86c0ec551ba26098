"""Removes what labs of dead processes left behind, found by the process id in the name."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from tests.support.lab import netns

_OWNER = re.compile(rf"{netns.PREFIX}(\d+)x\d+")


def owner(name: str) -> int | None:
    """The process id in a lab's namespace or directory name; None for a foreign name."""
    found = _OWNER.match(name)
    return int(found[1]) if found else None


def running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def leftovers() -> tuple[list[str], list[Path]]:
    """Namespaces and directories whose lab's process is dead."""
    homes = Path(tempfile.gettempdir()).glob(f"{netns.PREFIX}*")
    dead = [name for name in netns.names(netns.PREFIX) if (pid := owner(name)) and not running(pid)]
    return dead, [home for home in homes if (pid := owner(home.name)) and not running(pid)]


def clean() -> list[str]:
    """Remove the leftovers, with the processes that still run in such a namespace; the names of what was removed."""
    dead, homes = leftovers()
    for name in dead:
        for pid in netns.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        netns.remove(name)
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)
    return [*dead, *map(str, homes)]
