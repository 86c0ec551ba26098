"""Commands into a guest through files: this end runs on the host, `tests.vm.server` in the guest.

Guest and host share a directory, and each call is a folder in it that appears by renaming, with
  request   JSON: `words`, and `terminal` (null, or TERM, rows and columns of the caller's)
  input     JSON lines from the caller, appended: `data` (Latin-1), `end`, `size`, `signal`, `alive`, `gone`
  output    what the command writes, appended; `errors` likewise. With a terminal all of it is output
  status    the command's exit status, the last thing that appears
A file is looked at again and again, for 9p brings no notices of changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

PAUSE = 0.02
"""Seconds between two looks during a call."""
BEAT = 2.0
"""Seconds between two signs of life of a caller."""
PATIENCE = 60.0
"""Seconds in which the other end has to take up a call."""
PIECE = 1 << 20
"""Bytes of output that are passed on between two looks at everything else."""
LEAVE = b"\x1d"
"""Ctrl-] leaves a terminal whose other end hangs."""


class Gone(Exception):
    """The other end does not answer; the text says what is known."""


class Call:
    """The caller's end of one call."""

    def __init__(self, channel: Path, words: Sequence[str], terminal: bool) -> None:
        """Hand the call in. `terminal` says that ours is to be the command's."""
        draft = Path(tempfile.mkdtemp(prefix=".", dir=channel))
        rows_columns = window() if terminal else None
        shape = [os.environ.get("TERM", "dumb"), *rows_columns] if rows_columns else None
        (draft / "request").write_text(json.dumps({"words": list(words), "terminal": shape}))
        self._size = rows_columns
        self._input = os.open(draft / "input", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.folder = channel / draft.name.lstrip(".")
        draft.rename(self.folder)
        self._streams: dict[str, BinaryIO] = {}
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._live, daemon=True)
        self._beat.start()

    def say(self, key: str, value: object) -> None:
        """Append a line to `input`, in one write, so that threads do not mix their lines."""
        os.write(self._input, json.dumps({key: value}).encode() + b"\n")

    def _live(self) -> None:
        # In a thread, for the caller's output may block for long, in a pager for instance.
        while not self._ended.wait(BEAT):
            self.say("alive", True)

    def resize(self) -> None:
        """Pass on the terminal's size if it has changed."""
        if self._size != (size := window()):
            self._size = size
            self.say("size", size)

    def taken(self) -> bool:
        """Whether the other end has taken up the call."""
        return (self.folder / "output").exists()

    def status(self) -> int | None:
        """The exit status; None before the end."""
        try:
            return int((self.folder / "status").read_text())
        except FileNotFoundError:
            return None

    def show(self, *, rest: bool) -> None:
        """Pass on what the command has written since the last time: a piece, or all the rest."""
        for name, sink in (("output", sys.stdout), ("errors", sys.stderr)):
            if name not in self._streams:
                with contextlib.suppress(FileNotFoundError):
                    self._streams[name] = (self.folder / name).open("rb")
            # A command that never stops writing must keep us neither from our input nor from its end.
            while name in self._streams and (data := self._streams[name].read(PIECE)):
                # An unbuffered stream may take a part only, and says nothing when its reader goes meanwhile.
                left = memoryview(data)
                while left:
                    left = left[sink.buffer.write(left) :]
                sink.flush()
                if not rest:
                    break

    def close(self) -> None:
        """Tidy up; a command that has not ended is told that nobody listens any more."""
        self._ended.set()
        self._beat.join()
        if self.status() is None:
            self.say("gone", True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        for stream in self._streams.values():
            stream.close()
        os.close(self._input)


def window() -> tuple[int, int]:
    """Rows and columns of our terminal."""
    size = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return size.lines, size.columns


def call(channel: Path, words: Sequence[str], alive: Callable[[], bool]) -> int:
    """Have a command run at the other end with our input, output and, if we have one, terminal; its exit status.

    `alive` says whether the other end exists at all. Raises Gone when it does not answer.
    """
    terminal = os.isatty(0) and os.isatty(1)
    ours = Call(channel, words, terminal)
    try:
        with _raw() if terminal else contextlib.nullcontext():
            return _attend(ours, terminal, alive)
    except BrokenPipeError:
        # Nobody reads our output any more. What is left in Python's buffer must not fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    finally:
        ours.close()


def _attend(ours: Call, terminal: bool, alive: Callable[[], bool]) -> int:
    start, listening, interrupts = time.monotonic(), True, 0
    while True:
        try:
            if listening:
                listening = _pass_input(ours, terminal)
            else:
                time.sleep(PAUSE)
            if terminal:
                ours.resize()
            status = ours.status()
            ours.show(rest=status is not None)
            if status is not None:
                return status
            if not alive():
                raise Gone("the lab has been taken down")
            if not ours.taken() and time.monotonic() - start > PATIENCE:
                raise Gone(f"the lab has not answered for {PATIENCE:g} s")
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts > 1:
                return 130
            ours.say("signal", 2)


def _pass_input(ours: Call, terminal: bool) -> bool:
    """Pass on what we are given within a moment; false at its end."""
    if not select.select([0], [], [], PAUSE)[0]:
        return True
    data = os.read(0, 4096)
    if terminal and data == LEAVE:
        raise Gone("left")
    ours.say("data", data.decode("latin-1")) if data else ours.say("end", True)
    return bool(data)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Every key goes to the other end's terminal, Ctrl-C too."""
    before = termios.tcgetattr(0)
    # Without throwing away what has been typed ahead.
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
