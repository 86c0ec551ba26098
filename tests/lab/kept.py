"""Demos that outlive their command: `make demo KEEP=1` leaves a keeper in the background.

A keeper is a process with a folder of its own, named after it:
  keeper    which process it is
  status    the exit status of the checks, as soon as the cluster is left to its visitors
  channel/  there if the cluster is in a guest: the way in
It goes on SIGTERM, and takes the folder with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.vm.processes import Process

KEPT = Path(__file__).resolve().parents[2] / "build" / "kept"
END_BOUND = 30.0
"""Seconds for a keeper to take its cluster down."""
CLOSING = "takes it down"
"""Ends what a keeper prints before it holds its cluster."""
CLOSING_BOUND = 15.0
"""Seconds for that to arrive: out of a guest text comes by another way than the status, and a slower one."""


class Kept(NamedTuple):
    """A demo's folder and its keeper."""

    folder: Path
    keeper: Process

    @property
    def held(self) -> bool:
        """Whether the checks are over."""
        return (self.folder / "status").exists()

    @property
    def channel(self) -> Path | None:
        """The way into the guest; None if the cluster is on this machine."""
        path = self.folder / "channel"
        return path if path.is_dir() else None


def folder(pid: int, root: Path = KEPT) -> Path:
    """The folder of the keeper with a process id."""
    return root / str(pid)


@contextlib.contextmanager
def keeping(root: Path = KEPT) -> Iterator[Path]:
    """Be a keeper; the folder, which only its owner can look into: a word in it is a command for root."""
    home = folder(os.getpid(), root)
    shutil.rmtree(home, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    home.mkdir(mode=0o700)
    draft = home / "keeper.draft"
    draft.write_text(str(Process.of(os.getpid())))
    draft.rename(home / "keeper")
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _all(root: Path) -> list[Kept]:
    found = []
    for note in root.glob("*/keeper"):
        with contextlib.suppress(OSError):
            found.append((note.stat().st_mtime, Kept(note.parent, Process.parse(note.read_text()))))
    return [kept for _, kept in sorted(found)]


def alive(root: Path = KEPT) -> list[Kept]:
    """The demos that are kept now, newest last."""
    return [kept for kept in _all(root) if kept.keeper.alive]


def end(kept: Kept) -> bool:
    """Ask a keeper to take its cluster down and wait for it; whether it did."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(kept.keeper.pid, signal.SIGTERM)
    bound = time.monotonic() + END_BOUND
    while kept.keeper.alive and time.monotonic() < bound:
        time.sleep(0.05)
    return not kept.keeper.alive


def clean(root: Path = KEPT) -> list[str]:
    """Remove the folders of keepers that were killed; their names."""
    dead = [str(kept.folder) for kept in _all(root) if not kept.keeper.alive]
    for name in dead:
        shutil.rmtree(name, ignore_errors=True)
    return dead


def launch(argv: Sequence[str], root: Path = KEPT) -> int:
    """Start a keeper in the background, show what it prints, and leave it when it holds its cluster.

    Returns the exit status of the checks. Who interrupts this ends the keeper.
    """

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    # One of them may have had the process id that the new keeper gets.
    clean(root)
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": str(shutil.get_terminal_size().columns)},
            start_new_session=True,
        )
        status = folder(child.pid, root) / "status"
        try:
            shown, going, closed, held = 0, True, False, 0.0
            while going:
                held = held or (time.monotonic() if status.exists() else 0.0)
                late = bool(held) and time.monotonic() - held > CLOSING_BOUND
                going = child.poll() is None and not (held and (closed or late))
                # The keeper writes through the same description: our reading must not move its position.
                while data := os.pread(output.fileno(), 65536, shown):
                    shown += len(data)
                    # Of a word in two pieces the second ends no line, and is waited for until the bound.
                    closed = closed or CLOSING.encode() in data
                    sys.stdout.buffer.write(data)
                    sys.stdout.flush()
                time.sleep(0.05 if going else 0)
            if child.returncode is None:
                return int(status.read_text())
            ended = child.returncode if child.returncode >= 0 else 128 - child.returncode
            if ended > 128:
                print(f"demo: ended by signal {ended - 128} from elsewhere, `make clean` for instance", flush=True)
            return ended
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_BOUND)
            raise
