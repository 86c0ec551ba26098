"""Work that must not hold up the engine: done on a thread of its own, run like a source."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from kuberouter.model.core import Unavailable
from kuberouter.model.ports import Inbox, Stop

log = logging.getLogger(__name__)

WAIT = 0.5
"""Seconds after which a silent wait looks at `stop` again."""
FIRST_DELAY = 0.5
LAST_DELAY = 30.0
"""Seconds between tries after an error: doubled from the first to the last value, each with half of it as jitter."""


class Worker:
    """Does one kind of work whenever there is some; tells the engine nothing."""

    def __init__(self, name: str, work: Callable[[float], None], failing: str) -> None:
        """`work` waits up to the given seconds for something to do and does it; it keeps what it fails to do.

        `failing` is what is logged when it fails, with the reason after it.
        """
        self.name = name
        self.trouble = ""
        """What keeps the work from being done now; empty when nothing does."""
        self._work = work
        self._failing = failing

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Work until `stop`. Errors are retried with backoff and jitter."""
        del inbox
        delay = FIRST_DELAY
        while not stop.is_set():
            try:
                self._work(WAIT)
                self.trouble, delay = "", FIRST_DELAY
            except (OSError, Unavailable) as error:
                if not self.trouble:
                    log.error("%s: %s", self._failing, error)
                self.trouble = str(error)
                stop.wait(delay * random.uniform(0.5, 1.0))
                delay = min(LAST_DELAY, delay * 2)
