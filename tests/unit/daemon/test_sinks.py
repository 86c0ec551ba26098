"""What the log says of problems, as the journal reports them."""

from __future__ import annotations

import logging

import pytest

from kuberouter.daemon.sinks import LogSink
from kuberouter.engine.journal import Journal
from kuberouter.model.core import ObjectRef, Owner, Problem, Reason

WEB = ObjectRef("Service", "shop", "web")
PORT = Problem(WEB, "spec.ports[0].port", Reason.MALFORMED, "70000 is not a port number")
WORSE = Problem(WEB, "spec.ports[0].port", Reason.MALFORMED, "0 is not a port number")
ONE, OTHER = Owner("ipvs", WEB), Owner("vips", WEB)


@pytest.fixture
def journal(caplog: pytest.LogCaptureFixture) -> Journal:
    caplog.set_level(logging.INFO)
    return Journal([LogSink()])


def test_a_problem_is_told_once_and_once_when_it_is_solved(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    for owner in (ONE, OTHER, ONE):
        journal.report(owner, [PORT])
    assert caplog.messages == ["Service shop/web: spec.ports[0].port: 70000 is not a port number"]
    journal.report(ONE, [])
    assert len(caplog.messages) == 1
    journal.report(OTHER, [])
    assert caplog.messages[1:] == ["Service shop/web: spec.ports[0].port: 70000 is not a port number: solved"]
    journal.report(ONE, [PORT])
    assert len(caplog.messages) == 3


def test_a_problem_that_changes_is_not_called_solved(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.report(ONE, [PORT])
    journal.report(ONE, [WORSE])
    assert caplog.messages == [str(PORT), str(WORSE)]
    journal.report(ONE, [])
    assert caplog.messages[2:] == [f"{WORSE}: solved"]


def test_what_we_cannot_do_is_an_error_and_what_the_user_got_wrong_a_warning(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    journal.report(ONE, [PORT, Problem(WEB, "", Reason.FAILED, "no space left")])
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
