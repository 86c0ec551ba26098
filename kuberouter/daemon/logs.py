"""Log lines on stderr, in the form that operators of Kubernetes components know."""

from __future__ import annotations

import logging
import os
import sys
import time

log = logging.getLogger(__name__)

EVERYTHING = 2
"""The verbosity from which on every change is told."""
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
    """Lets a warning or an error through once in `PERIOD` seconds, and then says how often it was held back."""

    PERIOD = 60.0
    MOST = 1000
    """Different lines that are remembered; a flood of ever new ones must not fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is new enough to be written."""
        if record.levelno < logging.WARNING:
            return True
        text = record.getMessage()
        since, held = self._last.get(text, (-self.PERIOD, 0))
        if record.created - since < self.PERIOD:
            self._last[text] = since, held + 1
            return False
        if len(self._last) >= self.MOST:
            self._last.clear()
        self._last[text] = record.created, 0
        if held:
            record.msg, record.args = f"{text} (and {held} times since this was last said)", ()
        return True


def setup(verbosity: int) -> None:
    """Send the project's log to stderr, that of libraries from warnings on. `verbosity` is that of `-v`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kuberouter").setLevel(logging.DEBUG if verbosity >= EVERYTHING else logging.INFO)


def log_setting(name: str, old: str, new: str) -> None:
    """Tell of a kernel setting that was changed."""
    log.info("%s: changed from %s to %s", name, old, new)
