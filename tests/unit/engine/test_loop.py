"""A turn that raises is told, makes nobody ready, and loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner
from kuberouter.model.core import Problem, Reason
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
