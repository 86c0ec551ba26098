"""Tells the log when a loop hangs and where, and what is waited for; with health endpoints or without."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

LOOK = 15.0
"""Seconds between looks."""
LINES = 12
"""Frames that are told: the innermost ones, for what hangs is there."""


class Watchdog:
    """Looks now and then; never ends anything, which is for whoever asks `/livez`."""

    def __init__(
        self, alive: Callable[[], bool], thread: threading.Thread, loop: str = "the loop of the engine"
    ) -> None:
        """`alive` says whether the loop turns that `thread` runs, `loop` is what it is called."""
        self._alive = alive
        self._loop = loop
        self._thread = thread
        self._well = True

    def look(self) -> None:
        """Look once."""
        well = self._alive()
        if self._well and not well:
            log.error("%s hangs, so /livez fails; it is at\n%s", self._loop, self._place())
        elif well and not self._well:
            log.warning("%s turns again", self._loop)
        self._well = well

    def _place(self) -> str:
        if not self._thread.is_alive():
            return "an end: its thread is gone"
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "a place that is not known"
        return "".join(traceback.format_stack(frame)[-LINES:]).rstrip()


class Herald:
    """Says of each controller whether it is ready, once and whenever that changes; what lasts less than a look is not
    told.
    """

    def __init__(self, readiness: Callable[[], Sequence[tuple[str, bool, str]]]) -> None:
        """`readiness` has each controller's name, whether it is ready, and why not."""
        self._readiness = readiness
        self._told: dict[str, str] = {}

    def look(self) -> None:
        """Look once."""
        for name, ready, reason in self._readiness():
            said = "" if ready else reason
            if self._told.get(name) != said:
                log.log(logging.INFO if ready else logging.WARNING, "%s is %s", name, _state(ready, reason))
            self._told[name] = said


def _state(ready: bool, reason: str) -> str:
    return "ready" if ready else f"not ready: {reason}"
