"""What `-v` shows of the engine's passes and of the tools that run, from verbosity 1 on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from kuberouter.daemon.logs import level
from kuberouter.engine.dataplane import Report
from kuberouter.model.core import Batch

log = logging.getLogger(__name__)

TIMES, ROWS, TOOLS, TURNS, SCRIPTS = level(1), level(2), level(3), level(4), level(9)
MOST_ROWS = 200
"""Rows of a table that are told of one pass: the first pass of a large node writes 100,000."""


def turned(report: Report) -> None:
    """The engine has made a pass."""
    if not log.isEnabledFor(TIMES):
        return
    if report.batches or report.read or report.failed:
        seconds = ", ".join(f"{row.__name__} {spent * 1e3:.1f}" for row, spent in report.seconds.items())
        log.log(
            TIMES,
            "pass: planned in %.1f ms; %d rows written, %d refused, %d tables read; milliseconds: %s",
            report.planned * 1e3,
            report.writes,
            len(report.failed),
            len(report.read),
            seconds or "none",
        )
    else:
        log.log(TURNS, "pass: nothing to do")
    if log.isEnabledFor(ROWS):
        for row, batch in report.batches:
            _tell(row.__name__, list(_lines(batch)))


def _lines(batch: Batch[Any]) -> Iterable[str]:
    yield from (f"+ {row}" for row in batch.add)
    yield from (f"~ {new}" for _, new in batch.change)
    yield from (f"- {row}" for row in batch.remove)


def _tell(table: str, lines: Sequence[str]) -> None:
    for line in lines[:MOST_ROWS]:
        log.log(ROWS, "%s: %s", table, line)
    if len(lines) > MOST_ROWS:
        log.log(ROWS, "%s: and %d rows more", table, len(lines) - MOST_ROWS)


def ran(words: Sequence[str], script: str, status: int) -> None:
    """A tool has run."""
    if log.isEnabledFor(TOOLS):
        log.log(TOOLS, "ran %s: exit status %d", " ".join(words), status)
    if script and log.isEnabledFor(SCRIPTS):
        log.log(SCRIPTS, "%s was given\n%s", words[0], script.rstrip())
