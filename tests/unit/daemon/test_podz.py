"""Whether policy is in force for a pod: only what concerns it counts, and nothing is said too early."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from kuberouter.cluster.dependents import policies
from kuberouter.cluster.store import Cluster
from kuberouter.daemon.podz import PodState, PodStates, describe
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner, Registered
from kuberouter.model.cluster import NetworkPolicy, Node, Operator, Pod, PolicyPeer, PolicyRule, Requirement, Selector
from kuberouter.model.core import Batch, ObjectRef, Outcome, Row
from kuberouter.model.events import Deleted, Synced, Upserted
from kuberouter.model.netfilter import Chain, Member, Rule
from kuberouter.model.nftables import NftChain, NftElement
from kuberouter.model.settings import FirewallSettings, NodeSettings
from tests.property.test_policies import BACKENDS

WHY = "no such match"


class Picky(MemoryDriver[Any]):
    """A kernel that refuses some rows."""

    refused = 0
    refuses: Callable[[Row], bool] = staticmethod(lambda row: False)

    def write(self, batch: Batch[Any]) -> Outcome:
        added = [row for row in batch.add if not self.refuses(row)]
        super().write(Batch(tuple(added), batch.change, tuple(r for r in batch.remove if not self.refuses(r))))
        rows = (*batch.add, *batch.remove)
        self.refused += sum(map(self.refuses, rows))
        return Outcome({row.key: WHY for row in rows if self.refuses(row)})


class World:
    """A node with a firewall: `closed` is selected by policy `deny`, which lets `friend` in; `other` by `lone`."""

    def __init__(self, backend: str) -> None:
        compilers, rows = BACKENDS[backend]
        self.now = 0.0
        self.inbox, self.drivers = Inbox(), {row: Picky() for row in rows}
        registered = [Registered(name, "firewall", c, FirewallSettings(), ("pods",)) for name, c in compilers]
        planner = Planner(Cluster(NodeSettings("n1"), (policies,)), registered, {*rows, Rule}, Journal(()))
        dataplane = Dataplane([Table(row, driver) for row, driver in self.drivers.items()], planner.ledgers)
        firewall = Controller("firewall", frozenset(("pods",)), rows)
        self.engine = Engine(self.inbox, planner, dataplane, [firewall], clock=lambda: self.now)
        self.states = PodStates(self.engine, planner, dataplane, firewall)
        self.inbox.put(Upserted(Node(ObjectRef("Node", "", "n1"), (b"\xc0\x00\x02\x01",))))
        for number, name in enumerate(("closed", "friend", "other", "free"), 1):
            self.pod(name, number)
        friends = PolicyRule((PolicyPeer(pods=_named("friend")),))
        self.policy("deny", "closed", (friends,))
        self.policy("lone", "other", (PolicyRule((PolicyPeer(pods=_named("nobody")),)),))

    def pod(self, name: str, number: int, node: str = "n1", **more: Any) -> None:
        ref = ObjectRef("Pod", "shop", name)
        self.inbox.put(Upserted(Pod(ref, node, (("name", name),), (bytes((10, 244, 1, number)),), **more)))

    def policy(self, name: str, pod: str, ingress: tuple[PolicyRule, ...]) -> None:
        ref = ObjectRef("NetworkPolicy", "shop", name)
        self.inbox.put(Upserted(NetworkPolicy(ref, 0.0, _named(pod), ingress)))

    def refuse(self, row: type[Row], what: Callable[[Row], bool]) -> None:
        self.drivers[row].refuses = staticmethod(what)

    def turn(self) -> None:
        self.inbox.wake()
        self.engine.turn()

    def synced(self) -> None:
        self.inbox.put(Synced("pods"))
        self.turn()

    def state(self, name: str) -> PodState:
        return self.states.look(ObjectRef("Pod", "shop", name))


@pytest.fixture(params=list(BACKENDS))
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def test_it_is_in_force_once_everything_is_known_and_written(world: World) -> None:
    world.turn()
    assert world.state("closed").lacking == ("waiting for pods",)
    world.synced()
    assert world.state("closed") == PodState(policies=(ObjectRef("NetworkPolicy", "shop", "deny"),))
    assert describe("shop/closed", world.state("closed")) == (200, "shop/closed: in force\npolicies: shop/deny\n")
    assert describe("shop/free", world.state("free")) == (200, "shop/free: in force\npolicies: none\n")


def test_nothing_is_said_before_everything_known_is_compiled(world: World) -> None:
    world.synced()
    planner = world.states._planner
    planner.recompute()
    assert "yet to be looked at" in world.state("closed").lacking[0]
    world.turn()
    assert not world.state("closed").lacking


def test_what_is_refused_concerns_those_whose_verdicts_depend_on_it(world: World) -> None:
    friend = bytes((10, 244, 1, 2))
    # Dependence by a set: the friend's entry is claimed for the friend, and asked by the policy of another pod.
    world.refuse(
        _entries(world), lambda row: friend in (getattr(row.key, "address", b""), getattr(row.key, "first", b""))
    )
    world.synced()
    assert WHY in world.state("closed").lacking[0]
    assert not world.state("other").lacking
    world.refuse(_entries(world), lambda row: False)
    world.now += 100.0
    world.turn()
    assert not world.state("closed").lacking


def test_a_refused_chain_is_told_to_the_pods_of_its_policy(world: World) -> None:
    chains = NftChain if NftChain in world.drivers else Chain
    claimed = world.states._planner.ledgers[chains]

    def lone(row: Row) -> bool:
        return any(owner.subject.name == "lone" for owner in claimed.owners(row.key))

    world.refuse(chains, lone)
    world.synced()
    status, body = describe("shop/other", world.state("other"))
    assert status == 503
    assert body.startswith("shop/other: not in force: ")
    assert WHY in body
    assert body.endswith("\npolicies: shop/lone\n")
    assert not world.state("closed").lacking


def test_what_cannot_be_removed_counts_if_policies_ask_it(world: World) -> None:
    world.synced()
    world.refuse(_entries(world), lambda row: True)
    world.refuse(NftChain if NftChain in world.drivers else Chain, lambda row: True)
    world.inbox.put(Deleted(ObjectRef("NetworkPolicy", "shop", "lone")))
    world.turn()
    assert any(driver.refused for driver in world.drivers.values())
    assert not world.state("closed").lacking, "what is left over of others judges nobody"
    world.inbox.put(Deleted(ObjectRef("Pod", "shop", "friend")))
    world.turn()
    assert WHY in world.state("closed").lacking[0], "whoever gets the address of the friend is let in"


def test_of_some_pods_policy_says_nothing(world: World) -> None:
    world.pod("far", 9, "n2")
    world.pod("host", 10, host_network=True)
    world.pod("ended", 11, finished=True)
    world.synced()
    told = {name: describe(name, world.state(name)) for name in ("gone", "far", "host", "ended")}
    assert {status for status, _ in told.values()} == {404}
    assert told["gone"][1] == "gone: no pod of this node\n"
    assert "network of the node" in told["host"][1]
    assert "ended" in told["ended"][1]


def test_who_asks_from_another_thread_is_answered_between_turns(world: World) -> None:
    world.synced()
    found: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: found.append(world.states.show("shop/closed")))
    asking.start()
    turn_while(world, asking)
    assert found == [(200, "shop/closed: in force\npolicies: shop/deny\n")]


def test_who_waits_in_vain_is_told_so_and_not_looked_for_later(world: World) -> None:
    world.synced()
    looks: list[int] = []
    with pytest.raises(TimeoutError):
        world.engine.visit(lambda: looks.append(1), 0.0)
    world.turn()
    assert looks == []


def test_a_look_that_fails_is_the_trouble_of_who_looks(world: World) -> None:
    world.synced()
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            world.engine.visit(lambda: 1 // 0, 10.0)
        except ZeroDivisionError as error:
            caught.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    turn_while(world, asking)
    assert world.engine.states[0].ready


def turn_while(world: World, thread: threading.Thread) -> None:
    """Take turns, with nothing to do in them, until a thread has its answer."""
    while thread.is_alive():
        world.inbox.wake()
        world.engine.turn()


def _entries(world: World) -> type[Row]:
    return NftElement if NftElement in world.drivers else Member


def _named(name: str) -> Selector:
    return Selector((Requirement("name", Operator.IN, (name,)),))
