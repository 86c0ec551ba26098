"""Processes that are told from later ones with the same id, and the removal of guests whose keeper was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

RECORD = "processes"
"""File in a guest's folder: the process that keeps it and the one that it is, a line each."""


class Process(NamedTuple):
    """A process by its id and its start, in clock ticks since the boot of the machine."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this id now; raises OSError if none has."""
        return cls(pid, int(_fields(pid)[_STARTED]))

    @classmethod
    def parse(cls, line: str) -> Process:
        """Read what `str()` wrote."""
        pid, started = line.split()
        return cls(int(pid), int(started))

    def __str__(self) -> str:
        return f"{self.pid} {self.started}"

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            fields = _fields(self.pid)
        except OSError:
            return False
        return fields[_STATE] != "Z" and int(fields[_STARTED]) == self.started


# proc_pid_stat(5), counted from the field behind the name, which may contain anything.
_STATE, _SESSION, _STARTED = 0, 3, 19


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def end_session(leader: Process) -> None:
    """Kill every process of the session that a process started; those that have gone are no error.

    A session's number is not given away while it has members, so what carries it is the leader's offspring, unless the
    number has a new leader.
    """
    with contextlib.suppress(OSError):
        if Process.of(leader.pid) != leader:
            return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int(_fields(int(entry.name))[_SESSION]) == leader.pid:
                    os.kill(int(entry.name), signal.SIGKILL)


def record(folder: Path, guest: int) -> None:
    """Note in a guest's folder who keeps it (this process) and which process it is."""
    draft = folder / f"{RECORD}.draft"
    draft.write_text(f"{Process.of(os.getpid())}\n{Process.of(guest)}\n")
    draft.rename(folder / RECORD)


def clean(scratch: Path) -> list[str]:
    """End the guests below a directory whose keeper is dead, and remove their folders; the names of the folders."""
    removed = []
    for note in scratch.glob(f"*/{RECORD}"):
        keeper, guest = map(Process.parse, note.read_text().splitlines())
        if not keeper.alive:
            end_session(guest)
            shutil.rmtree(note.parent, ignore_errors=True)
            removed.append(str(note.parent))
    return removed
