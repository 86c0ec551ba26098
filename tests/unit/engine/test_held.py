"""Nothing tells the kubelet that pods can start before all stands that their packets, and their policies, need."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner
from kuberouter.model.core import Batch, Family, ObjectRef, Outcome, Owner, Prefix, Rank, Row, Unavailable
from kuberouter.model.host import CniSettings, CniSettingsKey
from kuberouter.model.netfilter import Chain, ChainKey, Hook, HookKey, HookRank, make_chain
from kuberouter.model.netfilter import Table as Xtable
from kuberouter.model.network import TABLE_MAIN, Link, LinkKey, LinkKind, Route, RouteKey
from kuberouter.model.settings import NodeSettings

OWNER = Owner("firewall", ObjectRef("Node", "", "n1"))
HOOK = Hook(HookKey(Family.IPV4, Xtable.FILTER, "FORWARD", "-j KUBE-ROUTER-FORWARD"), HookRank.POLICY)
CHAIN = make_chain(ChainKey(Family.IPV4, Xtable.FILTER, "KUBE-ROUTER-FORWARD"), ("-j DROP",))
POLICY = make_chain(ChainKey(Family.IPV4, Xtable.FILTER, "KUBE-NWPLCY-A"), ("-j NOWHERE",), fallback=("-j DROP",))
BRIDGE = Link(LinkKey("kube-bridge"), LinkKind.BRIDGE)
ROUTE = Route(RouteKey(TABLE_MAIN, Prefix(b"\x0a\xf4\x02\0", 24)), (b"\xc0\0\x02\x02",))
CNI = CniSettings(CniSettingsKey("/etc/cni/net.d/10-kuberouter.conflist"), (Prefix(b"\x0a\xf4\1\0", 24),))
ROWS: tuple[Row, ...] = (HOOK, CHAIN, POLICY, BRIDGE, ROUTE, CNI)


class Refusing(MemoryDriver[Any]):
    """Refuses rows by key, and everything as long as it is away."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[Hashable] = set()
        self.away = ""

    def read(self) -> Any:
        if self.away:
            raise Unavailable(self.away)
        return super().read()

    def write(self, batch: Batch[Any]) -> Outcome:
        fine = [row for row in batch.add if row.key not in self.refused]
        super().write(Batch(add=tuple(fine)))
        return Outcome({row.key: "refused" for row in batch.add if row.key in self.refused})


class Node:
    """Tables of a node in memory, and the engine's verdict on the route controller."""

    def __init__(self, counts: Callable[[type[Row], Hashable], bool] = lambda row, key: True) -> None:
        self.drivers = {row: Refusing() for row in (Chain, Hook, Link, Route, CniSettings)}
        planner = Planner(Cluster(NodeSettings("n1")), (), tuple(self.drivers), Journal())
        tables = [Table(row, driver, addition_needs=("pods",)) for row, driver in self.drivers.items()]
        self.dataplane = Dataplane(tables, planner.ledgers, counts=counts)
        self.changes = {}
        for row in ROWS:
            planner.ledgers[type(row)].claim(OWNER, [each for each in ROWS if type(each) is type(row)], rank=Rank())
            self.changes[type(row)] = planner.ledgers[type(row)].changes() or self.changes.get(type(row), {})
        controllers = [Controller("router", frozenset(), (CniSettings,))]
        self.engine = Engine(Inbox(), planner, self.dataplane, controllers, clock=lambda: 0.0)

    def turn(self, synced: tuple[str, ...] = ("pods",), *, now: float = 0.0, settled: bool = True) -> str:
        """A pass; for what the CNI configuration waits, or nothing."""
        self.dataplane.converge(self.changes, synced=synced, now=now, settled=settled)
        self.changes = {}
        there = CNI.key in self.drivers[CniSettings].rows
        awaited = self.dataplane.held.get(CniSettings, "")
        assert there == (not awaited)
        return awaited


def test_it_comes_last_when_all_stands() -> None:
    node = Node()
    assert node.turn() == ""
    assert node.drivers[Hook].rows.keys() == {HOOK.key}


def test_whoever_has_policies_to_tell_has_told_them() -> None:
    node = Node()
    assert node.turn(()) == "pods"
    assert node.turn(("pods",), settled=False) == "what is being compiled"
    assert node.turn() == ""


@pytest.mark.parametrize("row", [HOOK, CHAIN], ids=["hook", "chain"])
def test_a_way_into_policies_that_is_refused_holds_it_back(row: Row) -> None:
    node = Node()
    driver = node.drivers[type(row)]
    driver.refused.add(row.key)
    assert node.turn() == f"{type(row).__name__} {row.key} (refused)"
    driver.refused.clear()
    assert node.turn(now=100.0) == ""


def test_a_policy_that_stands_closed_a_route_and_what_others_lack_do_not() -> None:
    node = Node()
    node.drivers[Chain].refused.add(POLICY.key)
    node.drivers[Route].refused.add(ROUTE.key)
    assert node.turn() == ""
    node = Node(counts=lambda row, key: key != HOOK.key)
    node.drivers[Hook].refused.add(HOOK.key)
    assert node.turn() == ""


def test_a_table_that_is_away_holds_it_back_and_readiness_says_so() -> None:
    node = Node()
    node.drivers[Link].away = "no netlink"
    assert node.turn() == "Link (no netlink)"
    node.engine.turn()
    (state,) = node.engine.states
    assert not state.ready
    assert state.reason.startswith("CniSettings rows wait for ")
    node.drivers[Link].away = ""
    assert node.turn(now=100.0) == ""
