"""Log lines: their forms, what they never show, and how repetitions are held back. Time is data."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from kuberouter.daemon.logs import FORMATS, Formatter, JsonFormatter, Redactor, Repeats, level


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


def failed(text: str) -> logging.LogRecord:
    """A record with a traceback."""
    try:
        raise ValueError(text)
    except ValueError:
        made = record("it failed", 0.25, logging.ERROR)
        made.exc_info = sys.exc_info()
        return made


def test_json_is_an_object_in_a_line() -> None:
    line = JsonFormatter().format(record('Service "shop/web": §', 1_700_000_000.25))
    assert json.loads(line) == {
        "ts": "2023-11-14T22:13:20.250000Z",
        "level": "warning",
        "caller": "planner.py:42",
        "msg": 'Service "shop/web": §',
    }
    traced = JsonFormatter().format(failed("two\nlines"))
    assert "\n" not in traced
    assert json.loads(traced)["trace"].endswith("ValueError: two\nlines")


def test_each_verbosity_shows_more_than_the_one_before() -> None:
    levels = [level(verbosity) for verbosity in range(10)]
    assert levels == sorted(set(levels), reverse=True)
    assert levels[0] == logging.INFO
    assert levels[2] == logging.DEBUG
    assert levels[9] > logging.NOTSET
    assert (level(-1), level(1000)) == (levels[0], levels[9])


@pytest.mark.parametrize("form", FORMATS)
def test_credentials_are_taken_out_of_every_form_with_tracebacks(form: str) -> None:
    redactor = Redactor()
    formatter = (JsonFormatter if form == "json" else Formatter)(redactor.clean)
    redactor.hide(["aHVudGVyMg==", "hunter2"])
    for made in (failed("is it hunter2?"), failed("Authorization: Bearer eyJhbGciOi.x-y"), record("aHVudGVyMg==", 0.0)):
        line = formatter.format(made)
        assert "***" in line
        assert not re.search(r"hunter2|eyJ|aHVu", line)
    redactor.hide([])
    assert "hunter2" in formatter.format(record("hunter2", 0.0))


def test_a_repetition_waits_and_is_counted() -> None:
    now = 1000.0
    repeats = Repeats(lambda: now)
    assert repeats.filter(record("no answer", 0.0))
    now = 1001.0
    assert not repeats.filter(record("no answer", 0.0))
    now = 1059.0
    assert not repeats.filter(record("no answer", 0.0))
    now = 1000.0 + Repeats.PERIOD
    late = record("no answer", 0.0)
    assert repeats.filter(late)
    assert late.getMessage() == "no answer (and 2 times since this was last said)"
    now = 1000.0 + 2 * Repeats.PERIOD
    again = record("no answer", 0.0)
    assert repeats.filter(again)
    assert again.getMessage() == "no answer"


def test_a_clock_of_the_wall_that_is_put_back_silences_nothing() -> None:
    now = 5.0
    repeats = Repeats(lambda: now)
    assert repeats.filter(record("no answer", 1_700_000_000.0))
    now += Repeats.PERIOD
    assert repeats.filter(record("no answer", 1_600_000_000.0))


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
