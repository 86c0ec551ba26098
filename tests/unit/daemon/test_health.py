"""The health endpoints over an engine that works, fails and hangs: which of them says so, and which must not."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.daemon.compose import Composition
from kuberouter.daemon.lifecycle import Health
from kuberouter.daemon.parts.part import Part
from kuberouter.daemon.web import HealthServer
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner, Registered
from kuberouter.model.core import Batch, Fragment, ObjectRef, Outcome, Owner, Prefix, Unavailable
from kuberouter.model.events import Drifted, Event
from kuberouter.model.network import Route, RouteKey
from kuberouter.model.pulse import WEDGED_AFTER
from kuberouter.model.settings import NodeSettings

ROUTE = Route(RouteKey(254, Prefix(bytes((10, 0, 1, 0)), 24)), devices=("eth0",))
ALIVE, STUCK = (200, "OK\n"), (500, "Unhealthy")


class Kernel(MemoryDriver[Any]):
    """A kernel that is there or not, and takes routes or not."""

    away = refuses = False
    takes: Callable[[], None] = staticmethod(lambda: None)

    def read(self) -> Iterable[Any]:
        self.takes()
        if self.away:
            raise Unavailable("nobody answers")
        return super().read()

    def write(self, batch: Batch[Any]) -> Outcome:
        self.takes()
        if self.refuses:
            return Outcome({row.key: "Operation not permitted" for row in batch.add})
        return super().write(batch)


class Post(Inbox):
    """An inbox whose reader may fall over it."""

    broken = False

    def take(self, timeout: float, window: float) -> list[Event]:
        if self.broken:
            raise AssertionError("a bug of ours")
        return super().take(timeout, window)


class Daemon:
    """The engine with one controller behind the endpoints; nothing turns it but `turn`, and `now` is its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heard: list[tuple[int, str]] = []
        self.kernel = Kernel()
        self.inbox = Post()
        compilers = [Registered("routes", "router", lambda *_, **__: Fragment(), None)]
        self.planner = Planner(Cluster(NodeSettings("n1")), compilers, (Route,), Journal())
        dataplane = Dataplane([Table(Route, self.kernel)], self.planner.ledgers)
        controllers = [Controller("router", frozenset(("nodes",)), (Route,))]
        self.engine = Engine(self.inbox, self.planner, dataplane, controllers, clock=lambda: self.now)
        composition = Composition(self.engine, self.inbox, [], [Part("router")], None)
        self.server = HealthServer("127.0.0.1", 0)
        self.server.serve(Health(composition))

    def turn(self) -> None:
        """As the loop does, errors included."""
        self.inbox.put(Drifted(Route))
        try:
            self.engine.turn()
        except AssertionError as error:
            self.engine._failed(str(error))

    def pass_by(self, seconds: float) -> None:
        """Time passes, at whose end somebody asks for a sign of life."""
        self.now += seconds
        self.heard.append(self.says("livez"))

    def says(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}/{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.server.close()


def test_an_apiserver_that_is_away_is_no_reason_to_start_again(daemon: Daemon) -> None:
    """pain 35: kubelet killed who had no answer."""
    assert daemon.says("startupz")[0] == 500
    assert daemon.says("livez") == ALIVE
    for _ in range(10):
        daemon.turn()
        daemon.now += WEDGED_AFTER
        daemon.turn()
        assert daemon.says("livez") == daemon.says("healthz") == daemon.says("startupz") == ALIVE
    assert daemon.says("startupz?verbose") == (
        200,
        "router: started: waiting for nodes\nstartupz check passed\n",
    )
    assert daemon.says("readyz") == (500, "router: not ready: waiting for nodes\nreadyz check failed\n")


def test_what_cannot_be_applied_leaves_it_alive_and_not_ready(daemon: Daemon) -> None:
    daemon.planner.synced.add("nodes")
    daemon.planner.ledgers[Route].claim(Owner("routes", ObjectRef("Node", "", "n1")), [ROUTE])
    daemon.kernel.refuses = True
    for _ in range(3):
        daemon.turn()
        daemon.now += WEDGED_AFTER / 2
        assert daemon.says("livez") == ALIVE
        assert daemon.says("startupz") == ALIVE
        status, body = daemon.says("readyz")
        assert (status, "Operation not permitted" in body) == (500, True)
    daemon.kernel.refuses, daemon.kernel.away = False, True
    daemon.turn()
    assert daemon.says("livez") == ALIVE
    assert daemon.says("readyz") == (500, "router: not ready: nobody answers\nreadyz check failed\n")
    daemon.kernel.away = False
    daemon.now += WEDGED_AFTER / 2
    daemon.turn()
    assert daemon.says("readyz?verbose") == (200, "router: ready\nreadyz check passed\n")


def test_a_first_pass_that_takes_long_is_no_loop_that_hangs(daemon: Daemon) -> None:
    """Pain 35: each table takes less than two minutes, and all of them more."""
    daemon.planner.synced.add("nodes")
    daemon.planner.ledgers[Route].claim(Owner("routes", ObjectRef("Node", "", "n1")), [ROUTE])
    daemon.kernel.takes = lambda: daemon.pass_by(WEDGED_AFTER - 1)
    daemon.turn()
    assert daemon.heard == [ALIVE, ALIVE]
    daemon.inbox.broken = True
    daemon.turn()
    daemon.inbox.broken = False
    daemon.pass_by(1)
    # What fails for ever may write before it does.
    daemon.engine.pulse.progress()
    daemon.pass_by(WEDGED_AFTER - 1)
    assert daemon.says("livez") == STUCK


def test_a_loop_that_hangs_or_fails_for_ever_is_not_alive(daemon: Daemon) -> None:
    daemon.turn()
    daemon.now += WEDGED_AFTER - 1
    assert daemon.says("livez") == ALIVE
    daemon.now += 1
    assert daemon.says("livez") == daemon.says("healthz") == STUCK
    daemon.turn()
    assert daemon.says("livez") == ALIVE
    daemon.inbox.broken = True
    for _ in range(4):
        daemon.turn()
        daemon.now += WEDGED_AFTER / 4
    assert daemon.says("livez") == STUCK
    assert "a bug of ours" in daemon.says("readyz")[1]
