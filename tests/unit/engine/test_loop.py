"""A turn that raises is told, makes nobody ready, and loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import NODE_KNOWN, Planner, Registered
from kuberouter.model.cluster import Node
from kuberouter.model.core import Batch, Fragment, ObjectRef, Outcome, Owner, Problem, Reason
from kuberouter.model.events import Upserted
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.netfilter import IpSet
from kuberouter.model.settings import NodeSettings


class Diary:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.raised_: list[Problem] = []
        self.cleared_: list[Problem] = []

    def raised(self, problem: Problem) -> None:
        self.raised_.append(problem)

    def cleared(self, problem: Problem) -> None:
        self.cleared_.append(problem)


class After:
    """A stop flag that is set after some looks at it; waiting takes no time."""

    def __init__(self, looks: int) -> None:
        self._left: Iterator[bool] = itertools.chain(itertools.repeat(False, looks), itertools.repeat(True))

    def is_set(self) -> bool:
        return next(self._left)

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
        return False


def test_a_turn_that_raises_is_told_and_everything_is_read_again() -> None:
    diary = Diary()
    planner = Planner(Cluster(NodeSettings("n1")), (), (IpSet,), Journal((diary,)))
    driver: MemoryDriver[IpSet] = MemoryDriver()
    dataplane = Dataplane([Table(IpSet, driver)], planner.ledgers)
    turns = itertools.count()

    def observe(report: Report) -> None:
        if next(turns) == 1:
            raise ZeroDivisionError("boom")

    inbox = Inbox()
    controllers = [Controller("firewall", frozenset(), (IpSet,))]
    engine = Engine(inbox, planner, dataplane, controllers, clock=lambda: 0.0, observe=observe)
    inbox.wake()
    engine.turn()
    assert engine.states[0].ready
    inbox.wake()
    engine.run(After(1))
    (problem,) = diary.raised_
    assert (problem.reason, problem.message) == (
        Reason.BUG,
        "a turn failed and is tried again: ZeroDivisionError: boom",
    )
    assert not engine.states[0].ready
    assert "boom" in engine.states[0].reason
    inbox.wake()
    engine.run(After(1))
    assert diary.cleared_ == [problem]
    assert engine.states[0].ready


class Refusing(MemoryDriver[Sysctl]):
    """A kernel whose settings are read-only."""

    def write(self, batch: Batch[Sysctl]) -> Outcome:
        return Outcome({row.key: "is 0 and cannot be made 1: Read-only file system" for row in batch.add})


@pytest.mark.parametrize("optional", [True, False])
def test_only_what_is_not_optional_makes_a_controller_unready(optional: bool) -> None:
    diary = Diary()
    row = Sysctl(SysctlKey("net/ipv4/conf/eth0.7/rp_filter"), "1", optional=optional)
    node = Node(ObjectRef("Node", "", "n1"), (bytes((192, 0, 2, 1)),))
    owner = Owner("proxy", node.ref)
    compiler = Registered("proxy", "service-proxy", lambda *_, **__: Fragment((row,)), None)
    cluster = Cluster(NodeSettings("n1"), [lambda change, view: [owner]])
    planner = Planner(cluster, [compiler], (Sysctl,), Journal((diary,)))
    dataplane = Dataplane([Table(Sysctl, Refusing())], planner.ledgers)
    controllers = [Controller("service-proxy", frozenset((NODE_KNOWN,)), (Sysctl,))]
    inbox = Inbox()
    engine = Engine(inbox, planner, dataplane, controllers, clock=lambda: 0.0)
    inbox.put(Upserted(node))
    engine.turn()
    assert engine.states[0].ready is optional
    (problem,) = diary.raised_
    assert str(problem) == (
        "Table Sysctl: net.ipv4.conf.eth0/7.rp_filter: is 0 and cannot be made 1: Read-only file system"
    )
