"""What the kernel cannot do as asked and does otherwise: it is told, and keeps nobody from being ready."""

from __future__ import annotations

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner, Registered
from kuberouter.model.cluster import Node
from kuberouter.model.core import Batch, Family, Fragment, ObjectRef, Outcome, Owner, Problem, Reason
from kuberouter.model.events import Drifted, Upserted
from kuberouter.model.netfilter import Chain, ChainKey, IpSet, IpSetKey, Rule, RuleKey, SetType, make_chain
from kuberouter.model.netfilter import Table as Xtable
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


@pytest.mark.parametrize(
    ("owner", "told_of"),
    [
        (ObjectRef("Service", "shop", "web"), ObjectRef("Service", "shop", "web")),
        # What is the node's is the table's: a peer that runs without BFD, for one.
        (ObjectRef("Node", "", "n1"), ObjectRef("Table", "", "IpSet")),
    ],
)
def test_what_stands_in_for_something_is_told_of_its_owner_and_keeps_nobody_from_being_ready(
    owner: ObjectRef, told_of: ObjectRef
) -> None:
    diary = Diary()
    compiler = Registered("services", "proxy", lambda *_, **__: Fragment(), None)
    planner = Planner(Cluster(NodeSettings("n1")), (compiler,), (IpSet,), Journal((diary,)))
    dataplane = Dataplane([Table(IpSet, Poor())], planner.ledgers)
    inbox = Inbox()
    reports: list[Report] = []
    controllers = [Controller("proxy", frozenset(), (IpSet,))]
    engine = Engine(inbox, planner, dataplane, controllers, clock=lambda: 0.0, observe=reports.append)
    row = IpSet(IpSetKey("s"), SetType.HASH_NET, Family.IPV4)
    ledger = planner.ledgers[IpSet]
    ledger.claim(Owner("services", owner), (row,))
    dataplane.tables[IpSet].mirror.note(ledger.changes())
    inbox.wake()
    engine.turn()
    assert engine.states[0].ready
    problem = Problem(told_of, "", Reason.UNSUPPORTED, "no hash:net; hash:ip is used")
    assert diary.raised_ == [problem]
    inbox.put(Drifted(IpSet))
    engine.turn()
    assert (reports[-1].drift, reports[-1].writes) == ({IpSet: 0}, 1), "it is tried again, but nobody changed it"
    ledger.claim(Owner("services", owner), ())
    dataplane.tables[IpSet].mirror.note(ledger.changes())
    inbox.wake()
    engine.turn()
    assert diary.cleared_ == [problem]


WITHOUT_LOG = "rules with '-j NFLOG' are refused, they are left out"


class Logless(MemoryDriver[Chain]):
    """A kernel that cannot log, and has no set X."""

    def write(self, batch: Batch[Chain]) -> Outcome:
        rows = [*batch.add, *(new for _, new in batch.change)]
        bad = {row.key: f"left out: {rule} (no X)" for row in rows for rule in row.rules if "X" in rule}
        self.rows.update((row.key, row) for row in rows)
        return Outcome(bad, {row.key: WITHOUT_LOG for row in rows if row.fallback is not None})


def test_what_chains_can_do_without_is_told_once_and_a_rule_left_out_to_its_owner() -> None:
    diary = Diary()
    compiler = Registered("isolation", "firewall", lambda *_, **__: Fragment(), None)
    planner = Planner(Cluster(NodeSettings("n1")), (compiler,), (Rule, Chain), Journal((diary,)))
    planner.cluster.apply(Upserted(Node(ObjectRef("Node", "", "n1"), (bytes((192, 0, 2, 1)),))))
    dataplane = Dataplane([Table(Chain, Logless())], planner.ledgers)
    inbox = Inbox()
    engine = Engine(inbox, planner, dataplane, [Controller("firewall", frozenset(), (Chain,))], clock=lambda: 0.0)
    shared = ChainKey(Family.IPV4, Xtable.FILTER, "KUBE-ROUTER-POD-EGRESS")
    pods = [ObjectRef("Pod", "shop", name) for name in ("web", "api")]
    for number, pod in enumerate(pods):
        key = ChainKey(Family.IPV4, Xtable.FILTER, f"KUBE-POD-FW-{number}")
        profile = make_chain(key, ("-j NFLOG",), fallback=(), spares=(("-j NFLOG", ""),))
        planner.ledgers[Chain].claim(Owner("isolation", pod), (profile,))
    inbox.wake()
    engine.turn()
    assert engine.states[0].ready
    assert diary.raised_ == [Problem(ObjectRef("Table", "", "Chain"), "", Reason.UNSUPPORTED, WITHOUT_LOG)]
    diary.raised_.clear()
    for text, pod in zip(("-m set --match-set X src", "-j RETURN"), pods, strict=True):
        planner.ledgers[Rule].claim(Owner("isolation", pod), (Rule(RuleKey(shared, 10, text)),))
    inbox.wake()
    engine.turn()
    assert not engine.states[0].ready
    told = {problem.owner for problem in diary.raised_}
    assert told == {ObjectRef("Table", "", "Chain"), pods[0]}
    assert all("-m set --match-set X src (no X)" in problem.message for problem in diary.raised_)
