"""A node's routes, rules and tunnels as the engine keeps them in a real kernel; what is learned the test tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kuberouter.cluster.dependents import routing
from kuberouter.cluster.facts import ours
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.names import BRIDGE_LINK, TUNNEL_PREFIX, TUNNEL_TABLE, tunnel_name
from kuberouter.compilers.routing import COMPILERS
from kuberouter.drivers.fouports import FouPortDriver
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.drivers.network import LinkDriver, PolicyRuleDriver, RouteDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import NODE_KNOWN, Planner, Registered
from kuberouter.model import bgp
from kuberouter.model.cluster import LearnedRoute, Node
from kuberouter.model.core import Family, ObjectRef, Prefix, Problem, Row
from kuberouter.model.events import Deleted, Synced, Upserted
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.netfilter import Hook, IpSet, Member
from kuberouter.model.network import TABLE_MAIN, FouPort, Link, PolicyRule, Route
from kuberouter.model.settings import NodeSettings, RouterSettings
from kuberouter.sources.hostnet import HostSource
from tests.kernel.conftest import need
from tests.kernel.drive import sh

pytestmark = pytest.mark.root

SECOND = 1.0
"""Within which what somebody else took away is back; the machine may be slow, so a test allows for more."""
PATIENCE = 10 * SECOND
ME = "192.0.2.1"
CIDR, NEAR, FAR = "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"
NEIGHBOUR, REMOTE = "192.0.2.2", "198.51.100.3"


def packed(text: str) -> bytes:
    return ip_address(text).packed


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def node(name: str, cidr: str, *addresses: str) -> Node:
    return Node(
        ObjectRef("Node", "", name),
        internal_addresses=tuple(packed(address) for address in addresses),
        spec_pod_cidrs=(prefix(cidr),),
    )


class Diary:
    """The problems that stand."""

    def __init__(self) -> None:
        self.standing: list[Problem] = []

    def raised(self, problem: Problem) -> None:
        self.standing.append(problem)

    def cleared(self, problem: Problem) -> None:
        self.standing.remove(problem)


class Router:
    """The route controller's kernel half of a node, on threads of its own."""

    def __init__(self, settings: RouterSettings | None = None, families: tuple[Family, ...] = (Family.IPV4,)) -> None:
        settings = settings or RouterSettings()
        memory: tuple[type[Row], ...] = (Sysctl, IpSet, Member, Hook, CniSettings, *bgp.TABLES)
        ports = FouPortDriver((TUNNEL_PREFIX,), lambda key: key in self.planner.ledgers[FouPort].desired)
        self.drivers: dict[type[Row], Any] = {
            **{row: MemoryDriver[Any]() for row in memory},
            Link: LinkDriver((BRIDGE_LINK,), (TUNNEL_PREFIX,)),
            FouPort: ports,
            Route: RouteDriver((TABLE_MAIN, TUNNEL_TABLE)),
            PolicyRule: PolicyRuleDriver((TUNNEL_TABLE,)),
        }
        self.diary = Diary()
        compilers = [Registered(n, "router", each, settings, ("nodes", "interfaces")) for n, each in COMPILERS]
        cluster = Cluster(NodeSettings("me", families), [routing])
        self.planner = Planner(cluster, compilers, list(self.drivers), Journal((self.diary,)))
        needs = ("nodes", "interfaces", NODE_KNOWN)
        tables = [
            Table(row, driver, removal_needs=(*needs, "learned") if row in (Link, Route) else needs)
            for row, driver in self.drivers.items()
        ]
        self.inbox = Inbox()
        controllers = [Controller("router", frozenset(), tuple(self.drivers))]
        dataplane = Dataplane(tables, self.planner.ledgers)
        self.engine = Engine(self.inbox, self.planner, dataplane, controllers, clock=time.monotonic)
        self._stop = threading.Event()
        source = HostSource(ours, routes=True)
        self._threads = [
            threading.Thread(target=source.run, args=(self.inbox, self._stop)),
            threading.Thread(target=self.engine.run, args=(self._stop,)),
        ]
        for thread in self._threads:
            thread.start()

    def know(self, *nodes: Node) -> None:
        """All nodes are known."""
        for each in nodes:
            self.inbox.put(Upserted(each))
        self.inbox.put(Synced("nodes"))

    def learn(self, text: str, *hops: str) -> None:
        """gobgpd learned a route; without next hops it lost it."""
        ref = ObjectRef("LearnedRoute", "", text)
        ways = tuple(sorted(packed(hop) for hop in hops))
        self.inbox.put(Upserted(LearnedRoute(ref, prefix(text), ways)) if ways else Deleted(ref))

    def stop(self) -> None:
        """End; what is in the kernel stays."""
        self._stop.set()
        self.inbox.wake()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def host(namespace: str) -> str:
    """A host in one subnet, with a router to others, and with routes of its own."""
    sh("ip", "link", "add", "eth0", "type", "bridge")
    sh("ip", "link", "set", "eth0", "up")
    for address in (f"{ME}/24", "2001:db8::1/64"):
        sh("ip", "addr", "add", address, "dev", "eth0")
    sh("ip", "route", "add", "default", "via", "192.0.2.254")
    sh("ip", "-6", "route", "add", "default", "via", "2001:db8::fe")
    return namespace


Start = Callable[..., Router]


@pytest.fixture
def start(host: str) -> Iterator[Start]:
    """Starts routers; all of them end with the test."""
    del host
    started: list[Router] = []

    def begin(*arguments: Any) -> Router:
        started.append(Router(*arguments))
        return started[-1]

    yield begin
    for router in started:
        router.stop()


def wait(condition: Callable[[], bool]) -> float:
    """Wait for it; seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.01)
    return time.monotonic() - began


def routes(table: str = "main") -> set[str]:
    """The routes of ours in a table, as `ip` shows them."""
    found = sh("ip", "route", "show", "table", table, "proto", "17")
    return {" ".join(line.split()) for line in found.splitlines()}


def rules() -> set[str]:
    """The sources whose packets look into table 77."""
    lines = (line.split() for line in sh("ip", "rule").splitlines())
    return {words[2] for words in lines if words[-1] == "77"}


def through(text: str, gateway: str = NEIGHBOUR) -> str:
    return f"{text} via {gateway} dev eth0"


def test_b17_what_a_node_that_went_left_is_swept_after_a_restart_and_nothing_else(start: Start) -> None:
    """pain 23: routes, tunnels, rules and entries of table 77 outlived their node for good."""
    sh("ip", "link", "add", "left", "type", "bridge")
    sh("ip", "link", "set", "left", "up")
    for words in (
        "10.244.9.0/24 via 192.0.2.9 proto 17",  # of a node that is no more
        "10.244.2.0/24 via 192.0.2.2 proto 17",  # of one that is
        "198.51.100.9/32 dev left proto 17 table 77",
        "10.50.0.0/24 via 192.0.2.9 proto static",
        "198.51.100.8/32 dev left proto static table 77",
        "10.51.0.0/24 via 192.0.2.9 proto 17 table 99",
    ):
        sh("ip", "route", "add", *words.split())
    for words in ("from 10.244.8.0/24 lookup 77", "from 10.52.0.0/24 lookup 99"):
        sh("ip", "rule", "add", *words.split())
    router = start()
    router.know(node("me", CIDR, ME), node("near", NEAR, NEIGHBOUR))
    wait(lambda: rules() == {CIDR})
    # Until gobgpd has told of all it knows every route may be in use.
    assert routes() == {through("10.244.9.0/24", "192.0.2.9"), through(NEAR)}
    router.learn(NEAR, NEIGHBOUR)
    router.inbox.put(Synced("learned"))
    wait(lambda: routes() == {through(NEAR)})
    wait(lambda: routes("77") == set())
    left = sh("ip", "route", "show", "table", "all")
    for text in ("10.50.0.0/24 via 192.0.2.9", "198.51.100.8 dev left table 77", "10.51.0.0/24 via 192.0.2.9"):
        assert text in left
    assert "from 10.52.0.0/24 lookup 99" in sh("ip", "rule")


@pytest.mark.parametrize(
    "words",
    [
        ["ip route flush proto 17"],
        ["ip route del 10.244.2.0/24"],
        ["ip route replace 10.244.2.0/24 via 192.0.2.77 proto 17"],
        ["ip route replace 10.244.2.0/24 via 192.0.2.77", "ip route del 10.244.2.0/24"],
        ["ip rule del from 10.244.1.0/24"],
        ["ip link set eth0 down", "ip link set eth0 up"],
        ["ip addr del 192.0.2.1/24 dev eth0", "ip addr add 192.0.2.1/24 dev eth0"],
        ["ip link del kube-bridge"],
        ["ip link set kube-bridge mtu 1300"],
    ],
    ids=" then ".join,
)
def test_what_somebody_else_takes_away_or_changes_is_back_in_no_time(
    start: Start, words: list[str], tell: Callable[[str], None]
) -> None:
    """pain 15: the kernel and the RIB disagreed after flaps, flushes and restarts of systemd-networkd."""
    router = start()
    router.know(node("me", CIDR, ME), node("near", NEAR, NEIGHBOUR))
    router.inbox.put(Synced("learned"))
    router.learn(NEAR, NEIGHBOUR)

    def whole() -> bool:
        bridge = sh("ip", "link", "show", "type", "bridge")
        return routes() == {through(NEAR)} and rules() == {CIDR} and "kube-bridge" in bridge and "mtu 1480" in bridge

    wait(whole)
    wait(lambda: router.engine.states[0].ready)
    for line in words:
        sh(*line.split())
    took = wait(whole)
    tell(f"repair of '{'; '.join(words)}': {took:.2f} s")
    assert took < 3 * SECOND


def test_a_link_that_was_down_for_long_gets_its_routes_at_once(start: Start) -> None:
    router = start()
    router.know(node("me", CIDR, ME), node("near", NEAR, NEIGHBOUR))
    router.inbox.put(Synced("learned"))
    router.learn(NEAR, NEIGHBOUR)
    wait(lambda: routes() == {through(NEAR)})
    sh("ip", "link", "set", "eth0", "down")
    # It is tried again and again meanwhile, and later each time.
    router.learn(FAR, NEIGHBOUR)
    wait(lambda: len(router.diary.standing) >= 1)
    time.sleep(4)
    sh("ip", "link", "set", "eth0", "up")
    assert wait(lambda: routes() == {through(NEAR), through(FAR)}) < SECOND


def test_never_over_a_route_of_the_host(start: Start) -> None:
    """pain 18: what a peer told replaced, and then took away, routes of the host."""
    sh("ip", "route", "add", NEAR, "via", "192.0.2.99", "metric", "500")
    router = start()
    router.know(node("me", CIDR, ME), node("near", NEAR, NEIGHBOUR))
    router.inbox.put(Synced("learned"))
    for text in (NEAR, FAR, "0.0.0.0/0", "192.0.2.0/24"):
        router.learn(text, NEIGHBOUR)
    wait(lambda: routes() == {through(FAR)})
    wait(lambda: len(router.diary.standing) == 3)
    (told,) = (p for p in router.diary.standing if p.owner.name == NEAR)
    assert "via 192.0.2.99 dev eth0 proto boot" in told.message
    # One that comes later has precedence, too, whatever its metric.
    sh("ip", "route", "add", FAR, "via", "192.0.2.99", "metric", "600")
    wait(lambda: routes() == set())
    for text in (NEAR, FAR):
        sh("ip", "route", "del", text)
        wait(lambda text=text: through(text) in routes())
    wait(lambda: len(router.diary.standing) == 2)
    shown = sh("ip", "route")
    assert "default via 192.0.2.254 dev eth0" in shown
    assert "192.0.2.0/24 dev eth0 proto kernel" in shown


@pytest.mark.fou
def test_tunnels_of_a_node_that_went_are_swept_and_others_stay_as_they_are(start: Start) -> None:
    for feature in ("ipip", "ip6tnl", "fou"):
        need(feature)
    first = start(RouterSettings(overlay_encap="fou", overlay_port=5555))
    nodes = [node("me", CIDR, ME), node("far", FAR, REMOTE), node("gone", "10.244.9.0/24", "203.0.113.9")]
    first.know(*nodes)
    first.inbox.put(Synced("learned"))
    first.learn(FAR, REMOTE)
    first.learn("10.244.9.0/24", "203.0.113.9")
    tunnels = {tunnel_name(packed(hop)) for hop in (REMOTE, "203.0.113.9")}
    wait(lambda: names() == tunnels and len(routes()) == 2 and len(routes("77")) == 2)
    first.stop()
    indexes = links()
    sh("ip", "link", "add", "theirs", "type", "ipip", "local", ME, "remote", "203.0.113.77")
    second = start(RouterSettings(overlay_encap="fou", overlay_port=6666))
    second.know(*nodes[:2])
    second.learn(FAR, REMOTE)
    wait(lambda: second.engine.states[0].ready)
    assert names() == {*tunnels, "theirs"}
    second.inbox.put(Synced("learned"))
    kept = tunnel_name(packed(REMOTE))
    wait(lambda: names() == {kept, "theirs"})
    wait(lambda: len(routes()) == 1 and len(routes("77")) == 1)
    assert links()[kept] == indexes[kept], "the tunnel that stays was never away"
    assert "encap-dport 6666" in sh("ip", "-d", "link", "show", kept)
    wait(lambda: "port 6666 gue" in sh("ip", "fou", "show") and "5555" not in sh("ip", "fou", "show"))
    for words in (f"ip link del {kept}", f"ip link set {kept} down", f"ip link set {kept} mtu 1300"):
        before = sh("ip", "-d", "link", "show", kept).split("mtu")[1].split()[0]
        sh(*words.split())
        assert wait(lambda before=before: whole(kept, before)) < 5 * SECOND
    second.stop()
    third = start(RouterSettings())
    third.know(*nodes[:2])
    third.learn(FAR, REMOTE)
    third.inbox.put(Synced("learned"))
    wait(lambda: "encap" not in sh("ip", "-d", "link", "show", kept) and "6666" not in sh("ip", "fou", "show"))
    assert len(routes()) == 1


def links() -> dict[str, str]:
    """Indexes of links by name."""
    found = (line.split(": ") for line in sh("ip", "-o", "link").splitlines())
    return {words[1].partition("@")[0]: words[0] for words in found}


def names() -> set[str]:
    """Tunnels but those that come with the modules."""
    return {name for name in links() if name.startswith("tun-") or name == "theirs"}


def whole(tunnel: str, mtu: str) -> bool:
    """Whether a tunnel is up and carries its routes."""
    shown = sh("ip", "link", "show", "type", "ipip") if tunnel in links() else ""
    shown = "".join(line for line in shown.splitlines() if f" {tunnel}@" in line or f" {tunnel}:" in line)
    return f"mtu {mtu}" in shown and ",UP" in shown and len(routes()) == 1 and len(routes("77")) == 1
