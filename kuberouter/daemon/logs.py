"""Log lines on stderr, in the form that operators of Kubernetes components know."""

from __future__ import annotations

import logging
import os
import sys
import time

LEVELS = {0: logging.INFO, 1: logging.INFO}
_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class Formatter(logging.Formatter):
    """`Lmmdd hh:mm:ss.uuuuuu pid file:line] message`, as klog writes it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line, a traceback below it."""
        now = time.localtime(record.created)
        fraction = int((record.created % 1) * 1e6)
        stamp = f"{time.strftime('%m%d %H:%M:%S', now)}.{fraction:06d}"
        where = f"{os.path.basename(record.pathname)}:{record.lineno}"
        line = f"{_LETTERS.get(record.levelno, 'I')}{stamp} {record.process:>7} {where}] {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Repeats(logging.Filter):
    """Lets a line through once in `PERIOD` seconds, however often it is said."""

    PERIOD = 60.0
    MOST = 1000

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is new enough to be written."""
        if record.levelno < logging.WARNING:
            return True
        text = record.getMessage()
        if record.created - self._last.get(text, 0.0) < self.PERIOD:
            return False
        if len(self._last) >= self.MOST:
            self._last.clear()
        self._last[text] = record.created
        return True


def setup(verbosity: int) -> None:
    """Send the project's log to stderr. From verbosity 2 on it tells every change."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kuberouter").setLevel(LEVELS.get(verbosity, logging.DEBUG))
