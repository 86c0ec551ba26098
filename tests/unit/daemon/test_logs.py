"""Log lines: their form, and how repetitions are held back. Records are made by hand, so time is data."""

from __future__ import annotations

import logging
import re

from kuberouter.daemon.logs import Formatter, Repeats


def record(text: str, at: float, level: int = logging.WARNING) -> logging.LogRecord:
    """A record of a given time in seconds since the epoch."""
    made = logging.LogRecord("kuberouter.x", level, "/a/b/planner.py", 42, text, (), None)
    made.created = at
    return made


def test_a_line_has_the_form_that_operators_know() -> None:
    line = Formatter().format(record("Service shop/web: refused", 1_700_000_000.25))
    assert re.fullmatch(r"W\d{4} \d\d:\d\d:\d\d\.250000 +\d+ planner\.py:42\] Service shop/web: refused", line)


def test_levels_are_letters() -> None:
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    assert "".join(Formatter().format(record("x", 0.0, level))[0] for level in levels) == "IIWEF"


def test_a_repetition_waits_and_is_counted() -> None:
    repeats = Repeats()
    said = [repeats.filter(record("no answer", at)) for at in (1000.0, 1001.0, 1059.0)]
    assert said == [True, False, False]
    late = record("no answer", 1000.0 + Repeats.PERIOD)
    assert repeats.filter(late)
    assert late.getMessage() == "no answer (and 2 times since this was last said)"
    again = record("no answer", 1000.0 + 2 * Repeats.PERIOD)
    assert repeats.filter(again)
    assert again.getMessage() == "no answer"


def test_different_lines_and_plain_information_pass() -> None:
    repeats = Repeats()
    assert repeats.filter(record("a", 1.0))
    assert repeats.filter(record("b", 1.0))
    assert all(repeats.filter(record("started", 1.0, logging.INFO)) for _ in range(3))


def test_memory_is_bounded() -> None:
    repeats = Repeats()
    for number in range(3 * Repeats.MOST):
        assert repeats.filter(record(f"line {number}", 1.0))
    assert len(repeats._last) <= Repeats.MOST
