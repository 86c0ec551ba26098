"""What the kernel cannot do as asked and does otherwise: it is told, and keeps nobody from being ready."""

from __future__ import annotations

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner, Registered
from kuberouter.model.core import Batch, Family, Fragment, ObjectRef, Outcome, Owner, Problem, Reason
from kuberouter.model.events import Drifted
from kuberouter.model.netfilter import IpSet, IpSetKey, SetType
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


class Poor(MemoryDriver[IpSet]):
    """A kernel in which something else stands in for what is wanted."""

    def write(self, batch: Batch[IpSet]) -> Outcome:
        rows = [*batch.add, *(new for _, new in batch.change)]
        for row in rows:
            self.rows[row.key] = IpSet(row.key, SetType.HASH_IP, row.family)
        return Outcome(instead={row.key: "no hash:net; hash:ip is used" for row in rows})


def test_what_stands_in_for_something_is_told_of_its_owner_and_keeps_nobody_from_being_ready() -> None:
    diary = Diary()
    compiler = Registered("services", "proxy", lambda *_, **__: Fragment(), None)
    planner = Planner(Cluster(NodeSettings("n1")), (compiler,), (IpSet,), Journal((diary,)))
    dataplane = Dataplane([Table(IpSet, Poor())], planner.ledgers)
    inbox = Inbox()
    reports: list[Report] = []
    controllers = [Controller("proxy", frozenset(), (IpSet,))]
    engine = Engine(inbox, planner, dataplane, controllers, clock=lambda: 0.0, observe=reports.append)
    service = ObjectRef("Service", "shop", "web")
    row = IpSet(IpSetKey("s"), SetType.HASH_NET, Family.IPV4)
    ledger = planner.ledgers[IpSet]
    ledger.claim(Owner("services", service), (row,))
    dataplane.tables[IpSet].mirror.note(ledger.changes())
    inbox.wake()
    engine.turn()
    assert engine.states[0].ready
    problem = Problem(service, "", Reason.UNSUPPORTED, "no hash:net; hash:ip is used")
    assert diary.raised_ == [problem]
    inbox.put(Drifted(IpSet))
    engine.turn()
    assert (reports[-1].drift, reports[-1].writes) == ({IpSet: 0}, 1), "it is tried again, but nobody changed it"
    ledger.claim(Owner("services", service), ())
    dataplane.tables[IpSet].mirror.note(ledger.changes())
    inbox.wake()
    engine.turn()
    assert diary.cleared_ == [problem]
