"""Log lines on stderr: in the form that operators of Kubernetes components know, or as JSON."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger(__name__)

FORMATS = ("text", "json")
HIGHEST = 9
_LETTERS = {logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}
_CREDENTIALS = re.compile(r"(?i)\b(bearer|basic)(\s+)[\w.~+/=-]{8,}")
"""What follows the name of a scheme in a header of HTTP (RFC 9110, section 11.4)."""


def level(verbosity: int) -> int:
    """The level, as `logging` counts, of lines that `-v` shows from this number on; 2 and `logging.DEBUG` are one."""
    if verbosity <= 0:
        return logging.INFO
    return logging.INFO - 5 if verbosity == 1 else logging.DEBUG + 2 - min(verbosity, HIGHEST)


class Redactor:
    """Takes credentials out of texts: what looks like one, and what is known to be one.

    The second line of defence: passwords are of type `Secret`, which shows itself to nobody.
    """

    def __init__(self) -> None:
        self._known: re.Pattern[str] | None = None

    def hide(self, secrets: Iterable[str]) -> None:
        """Take these out from now on, and not what was told before."""
        words = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def clean(self, text: str) -> str:
        """The text with `***` in the place of each."""
        known = self._known
        text = known.sub("***", text) if known is not None else text
        return _CREDENTIALS.sub(r"\1\2***", text)


REDACTOR = Redactor()
"""That of the process, for its log is one."""


def _where(record: logging.LogRecord) -> str:
    return f"{os.path.basename(record.pathname)}:{record.lineno}"


class Formatter(logging.Formatter):
    """`Lmmdd hh:mm:ss.uuuuuu pid file:line] message`, as klog writes it."""

    def __init__(self, clean: Callable[[str], str] = REDACTOR.clean) -> None:
        super().__init__()
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line, a traceback below it."""
        now = time.localtime(record.created)
        fraction = int((record.created % 1) * 1e6)
        stamp = f"{time.strftime('%m%d %H:%M:%S', now)}.{fraction:06d}"
        line = f"{_LETTERS.get(record.levelno, 'I')}{stamp} {record.process:>7} {_where(record)}] {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return self._clean(line)


class JsonFormatter(Formatter):
    """An object in a line: ts (UTC), level, caller, msg, and trace where there is a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line."""
        fraction = int((record.created % 1) * 1e6)
        found = {
            "ts": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{fraction:06d}Z",
            "level": record.levelname.lower() if record.levelno >= logging.INFO else "debug",
            "caller": _where(record),
            "msg": self._clean(record.getMessage()),
        }
        if record.exc_info:
            found["trace"] = self._clean(self.formatException(record.exc_info))
        return json.dumps(found, ensure_ascii=False)


class Repeats(logging.Filter):
    """Lets a warning or an error through once in `PERIOD` seconds, and then says how often it was held back."""

    PERIOD = 60.0
    MOST = 1000
    """Different lines that are remembered; a flood of ever new ones must not fill the memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is no clock of the wall, which may be put back by hours."""
        super().__init__()
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is new enough to be written."""
        if record.levelno < logging.WARNING:
            return True
        text, now = record.getMessage(), self._clock()
        since, held = self._last.get(text, (now - self.PERIOD, 0))
        if now - since < self.PERIOD:
            self._last[text] = since, held + 1
            return False
        if len(self._last) >= self.MOST:
            self._last.clear()
        self._last[text] = now, 0
        if held:
            record.msg, record.args = f"{text} (and {held} times since this was last said)", ()
        return True


def setup(verbosity: int, form: str = "text") -> None:
    """Send the project's log to stderr, that of libraries from warnings on, and exceptions that nobody catches.

    `verbosity` is that of `-v`, `form` one of FORMATS. May be called again to change both.
    """
    root = logging.getLogger()
    handler = next((each for each in root.handlers if isinstance(each, _Handler)), None)
    if handler is None:
        handler = _Handler(sys.stderr)
        handler.addFilter(Repeats())
        root.handlers = [handler]
    handler.setFormatter(JsonFormatter() if form == "json" else Formatter())
    root.setLevel(logging.WARNING)
    logging.getLogger("kuberouter").setLevel(level(verbosity))
    sys.excepthook = lambda kind, error, trace: log.critical("an end by a bug", exc_info=(kind, error, trace))
    threading.excepthook = _thread_ended


class _Handler(logging.StreamHandler[Any]):
    """Ours, so that it is found again."""


def _thread_ended(gone: threading.ExceptHookArgs) -> None:
    name = gone.thread.name if gone.thread is not None else "a thread"
    if gone.exc_value is not None:
        log.critical("%s: an end by a bug", name, exc_info=(gone.exc_type, gone.exc_value, gone.exc_traceback))


def log_setting(name: str, old: str, new: str) -> None:
    """Tell of a kernel setting that was changed."""
    log.info("%s: changed from %s to %s", name, old, new)
