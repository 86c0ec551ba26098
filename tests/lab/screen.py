"""What the demo shows: steps as they pass, then a table that fills in while its checks run."""

from __future__ import annotations

import contextlib
import enum
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO


class State(enum.Enum):
    """Of one check."""

    WAITING = "."
    RUNNING = "..."
    PASSED = "ok"
    FAILED = "FAILED"
    SKIPPED = "skipped"


_COLOUR = {State.PASSED: "32", State.FAILED: "31;1", State.SKIPPED: "33", State.RUNNING: "36"}


@dataclass
class Line:
    """A row of the table."""

    title: str
    state: State = State.WAITING
    seen: str = ""
    took: float | None = None
    """Seconds from the change to the first probe or kernel read that showed it."""

    def text(self, width: int, colour: bool, columns: int | None = None) -> str:
        """The row as printed, cut to a number of columns."""
        word = f"{self.state.value:<8}"
        took = "" if self.took is None else f"{self.took * 1000:.0f} ms"
        rest = f" {self.title:<{width}} {took:>9}  {self.seen}"
        if columns is not None:
            rest = rest[: max(0, columns - len(word) - 2)]
        if colour and self.state in _COLOUR:
            word = f"\x1b[{_COLOUR[self.state]}m{word}\x1b[0m"
        return f"  {word}{rest}"


class Screen:
    """Prints to a stream; with `live` it redraws the table in place (the stream is a terminal)."""

    def __init__(self, out: TextIO, live: bool) -> None:
        self._out, self._live = out, live
        self._lines: list[Line] = []
        self._drawn = 0
        self._start = time.monotonic()

    def say(self, text: str = "") -> None:
        """Print a line."""
        self._out.write(f"{text}\n")
        self._out.flush()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and print how long it took."""
        start = time.monotonic()
        self._out.write(f"[{start - self._start:6.1f} s] {title} ... ")
        self._out.flush()
        try:
            yield
        except BaseException:
            self.say("failed")
            raise
        self.say(f"{time.monotonic() - start:.1f} s")

    def table(self, lines: Sequence[Line]) -> None:
        """Start the table."""
        self._lines = list(lines)
        width = max(len(line.title) for line in lines)
        self._width = width
        self.say()
        self.say(f"  {'result':<8} {'check':<{width}} {'change':>9}  what was probed and what it saw")
        if self._live:
            self._draw()

    def changed(self, line: Line) -> None:
        """Show the present state of a row; without a terminal only when it is final."""
        if self._live:
            self._draw()
        elif line.state not in (State.WAITING, State.RUNNING):
            self.say(line.text(self._width, False))

    def _draw(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A")
        # A row that wraps would spoil the way back up; the last time there is none.
        final = all(line.state not in (State.WAITING, State.RUNNING) for line in self._lines)
        columns = None if final else shutil.get_terminal_size().columns
        for line in self._lines:
            self._out.write(f"\x1b[2K{line.text(self._width, True, columns)}\n")
        self._drawn = len(self._lines)
        self._out.flush()
