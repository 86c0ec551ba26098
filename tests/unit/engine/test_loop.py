"""A turn that raises is told, makes nobody ready, and loses nothing; what is refused is told to who asked for it."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import pytest
from msgspec import structs

from kuberouter.cluster.dependents import Change, Dirty, policies
from kuberouter.cluster.store import Cluster
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.compilers.policies.firewall import BRIDGE_FILTERING
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import MOST_TOLD, Controller, Engine
from kuberouter.engine.planner import NODE_KNOWN, POD_CIDR_KNOWN, Planner, Registered
from kuberouter.model.cluster import NetworkPolicy, Node, Selector
from kuberouter.model.core import (
    Batch,
    Family,
    Fragment,
    ObjectRef,
    Outcome,
    Owner,
    Prefix,
    Problem,
    Reason,
    Unavailable,
)
from kuberouter.model.events import Deleted, Event, Synced, Upserted
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.netfilter import Chain, ChainKey, IpSet, Rule, make_chain
from kuberouter.model.netfilter import Table as Xtable
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import FirewallSettings, NodeSettings
from tests.property.test_policies import NFT_ROWS, ROWS


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
    """W19: no error ends the process."""
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


def test_a_node_that_becomes_known_bit_by_bit_is_waited_for_by_name() -> None:
    planner = Planner(Cluster(NodeSettings("n1")), (), (), Journal())
    needs = {"router": {"nodes", POD_CIDR_KNOWN, NODE_KNOWN}, "firewall": {"nodes", NODE_KNOWN}}
    controllers = [Controller(name, frozenset(each), ()) for name, each in needs.items()]
    inbox = Inbox()
    engine = Engine(inbox, planner, Dataplane([], planner.ledgers), controllers, clock=lambda: 0.0)

    def after(*events: Event) -> list[str]:
        for event in events:
            inbox.put(event)
        inbox.wake()
        engine.turn()
        return [state.reason for state in engine.states]

    node, address = Node(ObjectRef("Node", "", "n1")), (bytes((192, 0, 2, 1)),)
    assert after() == ["waiting for node, nodes, pod CIDR", "waiting for node, nodes"]
    assert after(Synced("nodes")) == ["there is no Node of the name n1"] * 2
    assert after(Upserted(node)) == ["Node n1 has no address of a family in use yet"] * 2
    cidrs = (Prefix(bytes((10, 244, 1, 0)), 24),)
    for _ in range(2):
        lacking = structs.replace(node, internal_addresses=address)
        assert after(Upserted(lacking)) == ["Node n1 has no pod CIDR of a family in use yet", ""]
        assert after(Upserted(structs.replace(lacking, spec_pod_cidrs=cidrs))) == ["", ""]


class Refusing(MemoryDriver[Sysctl]):
    """A kernel whose settings are read-only."""

    def write(self, batch: Batch[Sysctl]) -> Outcome:
        return Outcome({row.key: "is 0 and cannot be made 1: Read-only file system" for row in batch.add})


@pytest.mark.parametrize("optional", [True, False])
def test_only_what_is_not_optional_makes_a_controller_unready(optional: bool) -> None:
    diary = Diary()
    row = Sysctl(SysctlKey("net/ipv4/conf/eth0.7/rp_filter"), "1", optional=optional)
    node = Node(ObjectRef("Node", "", "n1"), (bytes((192, 0, 2, 1)),))
    compiler = Registered("proxy", "service-proxy", lambda *_, **__: Fragment((row,)), None)
    cluster = Cluster(NodeSettings("n1"), [lambda change, view: [("proxy", (node.ref,))]])
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


class Strict(MemoryDriver[Any]):
    """A driver that refuses some names."""

    refuses: frozenset[str] = frozenset()
    why = "no such match"

    def write(self, batch: Batch[Any]) -> Outcome:
        super().write(batch)
        named = {key: getattr(key, "name", getattr(key, "path", "")) for key in self.rows}
        failed: dict[Hashable, str] = {key: self.why for key, name in named.items() if name in self.refuses}
        for key in failed:
            del self.rows[key]
        return Outcome(failed)


class Policies:
    """An engine with a chain per policy; those whose name begins alike share one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.inbox, self.driver, self.diary = Inbox(), Strict(), Diary()
        cluster = Cluster(NodeSettings("n1"), (self._dependents,))
        registered = [Registered("policy", "firewall", self._compile, None)]
        planner = Planner(cluster, registered, (Chain,), Journal((self.diary,)))
        dataplane = Dataplane([Table(Chain, self.driver)], planner.ledgers)
        controllers = [Controller("firewall", frozenset(), (Chain,))]
        self.engine = Engine(self.inbox, planner, dataplane, controllers, clock=lambda: self.now)
        self.inbox.put(Upserted(Node(ObjectRef("Node", "", "n1"), (b"\xc0\x00\x02\x01",))))
        self.turn()

    def _dependents(self, change: Change, view: ClusterView) -> Iterator[Dirty]:
        del view
        if change.ref.kind == "NetworkPolicy":
            yield "policy", (change.ref,)

    def _compile(self, key: Owner, view: ClusterView, *, node: NodeFacts, settings: None) -> Fragment:
        del node, settings
        if view.policy(key.subject) is None:
            return Fragment()
        return Fragment((make_chain(ChainKey(Family.IPV4, Xtable.FILTER, key.subject.name[:1]), ("-j DROP",)),))

    def put(self, name: str) -> ObjectRef:
        ref = ObjectRef("NetworkPolicy", "shop", name)
        self.inbox.put(Upserted(NetworkPolicy(ref, 0.0, Selector())))
        return ref

    def turn(self) -> None:
        self.inbox.wake()
        self.engine.turn()

    def told(self) -> set[ObjectRef]:
        """Objects that are told of something that stands."""
        standing = [p for p in self.diary.raised_ if p not in self.diary.cleared_]
        return {problem.owner for problem in standing if problem.owner.kind == "NetworkPolicy"}


def test_a_policy_is_told_of_what_the_kernel_refuses_of_it_until_it_takes_it() -> None:
    """Pain 29, W30: an Event on the policy that is closed, none on its neighbours."""
    world = Policies()
    world.driver.refuses = frozenset("b")
    refs = [world.put(name) for name in ("b1", "b2", "good")]
    world.turn()
    assert world.told() == set(refs[:2])
    (problem,) = (problem for problem in world.diary.raised_ if problem.owner == refs[0])
    assert (problem.reason, problem.message) == (Reason.FAILED, "its Chain is refused: no such match")
    world.turn()
    assert len([problem for problem in world.diary.raised_ if problem.owner == refs[0]]) == 1
    world.inbox.put(Deleted(refs[1]))
    world.turn()
    assert world.told() == {refs[0]}
    world.driver.refuses = frozenset()
    world.now = 1000.0
    world.turn()
    assert world.told() == set()


def test_what_many_objects_share_is_told_to_a_few_of_them() -> None:
    world = Policies()
    world.driver.refuses = frozenset("b")
    for number in range(4 * MOST_TOLD):
        world.put(f"b{number}")
    world.turn()
    assert len(world.told()) == MOST_TOLD


class Missing(MemoryDriver[Sysctl]):
    """A counterpart that may be missing as a whole."""

    missing = True

    def read(self) -> Iterable[Sysctl]:
        if self.missing:
            raise Unavailable("kernel module ip_vs is missing")
        return super().read()


@pytest.mark.parametrize("first", [0, 1])
def test_b24_no_controller_waits_for_another_at_the_start(first: int) -> None:
    clock = itertools.count()
    planner = Planner(Cluster(NodeSettings("n1")), (), (IpSet, Sysctl), Journal(()))
    proxy = Missing()
    memory: MemoryDriver[IpSet] = MemoryDriver()
    tables: list[Table[Any]] = [Table(IpSet, memory), Table(Sysctl, proxy)]
    controllers = [Controller("firewall", frozenset(), (IpSet,)), Controller("proxy", frozenset(), (Sysctl,))]
    if first:
        tables.reverse()
        controllers.reverse()
    inbox = Inbox()
    engine = Engine(inbox, planner, Dataplane(tables, planner.ledgers), controllers, clock=lambda: 1000.0 * next(clock))
    inbox.wake()
    engine.turn()
    assert {state.name: state.ready for state in engine.states} == {"firewall": True, "proxy": False}
    proxy.missing = False
    inbox.wake()
    engine.turn()
    assert all(state.ready for state in engine.states)


@pytest.mark.parametrize("backend", [IPTABLES, NFTABLES], ids=["iptables", "nftables"])
def test_without_bridge_filtering_the_firewall_is_not_ready_and_says_why(backend: tuple[tuple[str, Any], ...]) -> None:
    """W16: same-node traffic would pass unseen, whichever other controllers run."""
    inbox, driver, diary, now = Inbox(), Strict(), Diary(), [0.0]
    driver.refuses, driver.why = frozenset(BRIDGE_FILTERING.values()), "kernel module br_netfilter is missing"
    registered = [Registered(name, "firewall", compile_, FirewallSettings()) for name, compile_ in backend]
    cluster = Cluster(NodeSettings("n1", tuple(Family)), (policies,))
    planner = Planner(cluster, registered, {*ROWS, *NFT_ROWS, Rule}, Journal((diary,)))
    dataplane = Dataplane([Table(Sysctl, driver)], planner.ledgers)
    controllers = [Controller("firewall", frozenset(), (Sysctl,))]
    engine = Engine(inbox, planner, dataplane, controllers, clock=lambda: now[0])
    inbox.put(Upserted(Node(ObjectRef("Node", "", "n1"), (b"\xc0\x00\x02\x01", b"\xfd" + bytes(15)))))
    engine.turn()
    assert not engine.states[0].ready
    assert "br_netfilter" in engine.states[0].reason
    assert len([problem for problem in diary.raised_ if "br_netfilter" in problem.message]) == 2
    driver.refuses, now[0] = frozenset(), 100.0
    inbox.wake()
    engine.turn()
    assert engine.states[0].ready
    assert {row.key.path: row.value for row in driver.rows.values() if not row.instead_of} == dict.fromkeys(
        BRIDGE_FILTERING.values(), "1"
    )


def test_a_table_is_not_read_before_it_is_known_what_is_wanted() -> None:
    planner = Planner(Cluster(NodeSettings("n1")), (), (IpSet, Sysctl), Journal(()))
    tables: list[Table[Any]] = [
        Table(IpSet, MemoryDriver(), read_needs=("services",)),
        Table(Sysctl, MemoryDriver()),
    ]
    dataplane = Dataplane(tables, planner.ledgers)
    assert dataplane.converge({}, synced=(), now=0.0).read == {Sysctl}
    assert dataplane.converge({}, synced=("services",), now=0.0, settled=False).read == set()
    assert dataplane.converge({}, synced=("services",), now=0.0).read == {IpSet}
    dataplane.resync((IpSet,))
    assert dataplane.converge({}, synced=(), now=0.0).read == {IpSet}, "only the first look has to wait"
