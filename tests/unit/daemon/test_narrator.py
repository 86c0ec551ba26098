"""What each verbosity shows, and that no secret is in it, in any form."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from kuberouter.daemon import narrator
from kuberouter.daemon.logs import FORMATS, Formatter, JsonFormatter, Redactor, level
from kuberouter.engine.dataplane import Report
from kuberouter.model.bgp import Peer, PeerKey
from kuberouter.model.core import Batch, Secret

PLANTED = "hunter2"
PEER = Peer(PeerKey(b"\x0a\x00\x00\x01"), 64512, b"", password=Secret(PLANTED))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The narrator's, as it was before afterwards."""
    found = logging.getLogger("kuberouter.daemon.narrator")
    before, handlers = found.level, found.handlers[:]
    yield found
    found.setLevel(before)
    found.handlers = handlers


def told(logger: logging.Logger, verbosity: int, form: str) -> list[str]:
    """Everything that is said of a pass with work, of one without, and of a tool."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter((JsonFormatter if form == "json" else Formatter)(Redactor().clean))
    logger.handlers = [handler]
    logger.setLevel(level(verbosity))
    report = Report()
    report.batches = [(Peer, Batch((PEER,), ((PEER, PEER),), (PEER,)))]
    report.seconds = {Peer: 0.0015}
    report.failed = {(Peer, "x"): f"{PEER}"}
    narrator.turned(report)
    narrator.turned(Report())
    narrator.ran(("ipset", "restore"), "add a b\n", 1)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("form", FORMATS)
def test_no_verbosity_shows_a_secret_and_each_adds_something(form: str, logger: logging.Logger) -> None:
    said = [told(logger, verbosity, form) for verbosity in range(10)]
    assert PLANTED not in str(said)
    assert said[0] == []
    assert len(said[1]) == 1
    assert "1 tables" not in said[1][0]
    assert "3 rows written, 1 refused" in said[1][0]
    assert [len(lines) for lines in said[1:5]] == [1, 4, 5, 6]
    assert "***" in said[2][1]
    assert "ran ipset restore: exit status 1" in said[3][-1]
    assert any("nothing to do" in line for line in said[4])
    assert "add a b" in said[9][-1]
    if form == "json":
        assert {json.loads(line)["level"] for lines in said for line in lines} == {"debug"}


def test_of_many_rows_only_some_are_told(logger: logging.Logger) -> None:
    out = io.StringIO()
    logger.handlers = [logging.StreamHandler(out)]
    logger.setLevel(level(2))
    report = Report()
    report.batches = [(Peer, Batch((PEER,) * 1000))]
    narrator.turned(report)
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + narrator.MOST_ROWS + 1
    assert lines[-1].endswith("and 800 rows more")
