"""The allocator's threads behind the health endpoints: hanging, failing for ever, and failing on one Service only."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.daemon.balancer import Balancer
from kuberouter.daemon.compose import Composition
from kuberouter.daemon.lifecycle import Health
from kuberouter.daemon.web import HealthServer
from kuberouter.decode.scalars import prefix
from kuberouter.engine.dataplane import Dataplane
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Engine
from kuberouter.engine.planner import Planner
from kuberouter.model.balancer import BalancerSettings
from kuberouter.model.core import Problem, Reason
from kuberouter.model.pulse import WEDGED_AFTER
from kuberouter.model.settings import NodeSettings
from kuberouter.sources.lease import Elector
from kuberouter.wire.kubeapi import connect
from tests.support.apiserver import ApiServer

ALIVE, STUCK = (200, "OK\n"), (500, "Unhealthy")
BOUND = 30.0
"""Seconds for what takes none."""


class Ear:
    """A sink that does something when it is told of a problem."""

    def __init__(self) -> None:
        self.heard: Callable[[Problem], object] = lambda problem: None

    def raised(self, problem: Problem) -> None:
        self.heard(problem)

    def cleared(self, problem: Problem) -> None:
        """Say nothing to that."""


class Daemon:
    """The allocator and an engine that is idle behind the health endpoints, all on a clock of the test."""

    def __init__(self, url: str) -> None:
        self.now = 1000.0
        self.ear = Ear()
        self.stop = threading.Event()
        api, settings = connect("", url), BalancerSettings((prefix("192.0.2.0/30"),), identity="here")
        self.elector = Elector(api, "kube-system", "here", clock=self.clock)
        self.balancer = Balancer(api, settings, self.elector, (self.ear,), clock=self.clock)
        planner = Planner(Cluster(NodeSettings("n1")), (), (), Journal())
        inbox = Inbox()
        self.engine = Engine(inbox, planner, Dataplane([], planner.ledgers), (), clock=self.clock)
        sources = [self.elector, self.balancer]
        composition = Composition(self.engine, inbox, [*sources], [], None, balancer=self.balancer)
        self.server = HealthServer("127.0.0.1", 0)
        self.server.serve(Health(composition))

    def clock(self) -> float:
        return self.now

    def run(self, source: Elector | Balancer) -> threading.Thread:
        thread = threading.Thread(target=source.run, args=(Inbox(), self.stop), daemon=True)
        thread.start()
        return thread

    def later(self, seconds: float, *going: Elector | Balancer) -> None:
        """Time passes, in which the engine gets on, and what else is said to."""
        self.now += seconds
        self.engine.pulse.round()
        for each in going:
            each.pulse.round()

    def alive(self) -> tuple[int, str]:
        """What `/livez` says."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}/livez", timeout=BOUND) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        yield api


@pytest.fixture
def daemon(api: ApiServer) -> Iterator[Daemon]:
    daemon = Daemon(api.url)
    yield daemon
    daemon.stop.set()
    api.cut_streams()
    daemon.server.close()


def service(name: str, *, made: int = 2026, **annotations: str) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": name, "creationTimestamp": f"{made}-01-01T00:00:00Z"}
    wanted = {f"kube-router.io/lb.{key}": value for key, value in annotations.items()}
    return {"kind": "Service", "metadata": {**metadata, "annotations": wanted}, "spec": {"type": "LoadBalancer"}}


def test_an_election_that_hangs_is_not_alive_and_an_apiserver_that_is_away_is_no_reason() -> None:
    """One that takes a connection and never says a word: each request to it ends, if late."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        daemon = Daemon(f"http://127.0.0.1:{silent.getsockname()[1]}")
        thread = daemon.run(daemon.elector)
        daemon.later(WEDGED_AFTER - 1, daemon.balancer)
        assert daemon.alive() == ALIVE
        daemon.later(1, daemon.balancer)
        assert daemon.alive() == STUCK
        daemon.stop.set()
    thread.join(BOUND)
    assert daemon.elector.trouble
    assert daemon.alive() == ALIVE
    for _ in range(3):
        daemon.later(WEDGED_AFTER, daemon.balancer)
        daemon.elector.step()
        daemon.elector.pulse.round()
        assert daemon.alive() == ALIVE
    daemon.server.close()


def test_an_allocation_that_hangs_is_not_alive(daemon: Daemon, api: ApiServer) -> None:
    told, go_on = threading.Event(), threading.Event()

    def hang(problem: Problem) -> None:
        told.set()
        go_on.wait(BOUND)

    daemon.ear.heard = hang
    api.apply(service("one", ips="203.0.113.1"))
    daemon.elector.step()
    thread = daemon.run(daemon.balancer)
    assert told.wait(BOUND)
    daemon.later(WEDGED_AFTER - 1, daemon.elector)
    assert daemon.alive() == ALIVE
    daemon.later(1, daemon.elector)
    assert daemon.alive() == STUCK
    daemon.stop.set()
    go_on.set()
    thread.join(BOUND)
    assert daemon.alive() == ALIVE


def test_an_allocation_that_fails_for_ever_is_not_alive(daemon: Daemon, api: ApiServer) -> None:
    """It is started again and again, gets on a little, and falls again."""

    def fall(problem: Problem) -> None:
        raise ZeroDivisionError("a bug of ours")

    daemon.ear.heard = fall
    for number in range(4):
        assert daemon.alive() == ALIVE
        api.apply(service(f"odd{number}", ips="nonsense"))
        daemon.elector.step()
        with pytest.raises(ZeroDivisionError):
            daemon.balancer.run(Inbox(), daemon.stop)
        daemon.later(WEDGED_AFTER / 4, daemon.elector)
    assert daemon.alive() == STUCK


def test_a_service_on_which_it_fails_harms_no_other(daemon: Daemon, api: ApiServer) -> None:
    told = threading.Event()

    def fall(problem: Problem) -> None:
        if problem.reason is Reason.FORBIDDEN:
            raise ZeroDivisionError("a bug of ours")
        told.set()

    daemon.ear.heard = fall
    api.apply(service("odd", made=2025, ips="203.0.113.1"))
    for name in ("a", "b", "c"):
        api.apply(service(name))
    daemon.elector.step()
    thread = daemon.run(daemon.balancer)
    # Of two addresses the third gets none, and that is told.
    assert told.wait(BOUND)
    while not daemon.balancer.trouble and thread.is_alive():
        told.wait(0.01)
    assert daemon.balancer.state() == (
        "loadbalancer",
        False,
        "Service shop/odd: its status is not written: the allocator failed: ZeroDivisionError: a bug of ours",
    )
    assert daemon.alive() == ALIVE
    with api.store.lock:
        stored = {name: s.get("status", {}) for (_, name), s in api.store.objects["services"].items()}
    assert [name for name, status in stored.items() if status.get("loadBalancer", {}).get("ingress")] == ["a", "b"]
