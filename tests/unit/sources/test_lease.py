"""Leadership by a Lease, step by step on a clock of the test, against an apiserver over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kuberouter.sources.lease import NAME, Elector
from kuberouter.wire.kubeapi import connect
from tests.support.apiserver import ApiServer


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


def elector(server: ApiServer, identity: str, clock: Clock) -> Elector:
    return Elector(connect("", server.url), "kube-system", identity, clock=clock)


def lease(server: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = server.store.objects["leases"]["kube-system", NAME]
    return found


def test_one_leads_and_another_follows_when_the_lease_has_run_out(server: ApiServer) -> None:
    clock = Clock()
    first, second = elector(server, "a", clock), elector(server, "b", clock)
    first.step()
    second.step()
    assert (first.leads(), second.leads(), second.holder) == (True, False, "a")
    spec = lease(server)["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("a", 15)
    for _ in range(20):
        clock.now += 2.0
        first.step()
        second.step()
    assert (first.leads(), second.leads()) == (True, False)
    # The first hangs: it stops to lead before anybody else may.
    clock.now += 10.0
    second.step()
    assert (first.leads(), second.leads()) == (False, False)
    clock.now += 5.0
    second.step()
    assert (first.leads(), second.leads(), second.term) == (False, True, 1)
    assert lease(server)["spec"]["leaseTransitions"] == 1
    first.step()
    assert (first.leads(), first.holder) == (False, "b")


def test_who_has_lost_it_asks_again(server: ApiServer) -> None:
    clock = Clock()
    first, second = elector(server, "a", clock), elector(server, "b", clock)
    first.step()
    first.release()
    assert not first.leads()
    second.step()
    assert second.leads(), "what was given up need not run out"
    first.step()
    second.release()
    first.step()
    assert (first.leads(), second.leads(), first.term) == (True, False, 2)


def test_an_apiserver_that_is_away_ends_the_lead_and_it_begins_anew(server: ApiServer) -> None:
    clock = Clock()
    first = elector(server, "a", clock)
    first.step()
    server.faults += [500] * 2
    clock.now += 9.0
    first.step()
    assert first.leads()
    assert "injected 500" in first.trouble
    clock.now += 2.0
    first.step()
    assert not first.leads()
    first.step()
    assert (first.leads(), first.term, first.trouble) == (True, 2, "")


def test_of_two_that_are_equally_fast_one_leads_and_what_others_wrote_stays(server: ApiServer) -> None:
    clock = Clock()
    first, second = elector(server, "a", clock), elector(server, "b", clock)
    first.step()
    server.apply({**lease(server), "metadata": {**lease(server)["metadata"], "labels": {"kept": "yes"}}})
    second.step()
    clock.now += 20.0
    raced = second._read()
    assert raced is not None
    first.step()
    raced.spec.holder_identity = "b"
    second._win("PUT", raced, clock.now)
    assert (first.leads(), second.leads()) == (True, False)
    assert lease(server)["metadata"]["labels"] == {"kept": "yes"}
