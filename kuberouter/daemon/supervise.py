"""A source that fails is started again: its thread ends only with the process."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from kuberouter.model.ports import Inbox, Source, Stop

log = logging.getLogger(__name__)

FIRST_RESTART = 0.5
LAST_RESTART = 30.0
"""Seconds before a source that raised is started again: doubled from the first to the last value, with jitter."""


def supervise(source: Source, inbox: Inbox, stop: Stop, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Run a source until `stop`, starting it again with backoff when it raises: that is a bug, not a reason to die."""
    delay = FIRST_RESTART
    while not stop.is_set():
        started = clock()
        try:
            source.run(inbox, stop)
            if stop.is_set():
                return
            log.error("source %s ended by itself; starting it again", source.name)
        except Exception:
            log.exception("source %s failed; starting it again", source.name)
        if clock() - started > LAST_RESTART:
            delay = FIRST_RESTART
        stop.wait(delay * random.uniform(0.5, 1.0))
        delay = min(LAST_RESTART, delay * 2)
