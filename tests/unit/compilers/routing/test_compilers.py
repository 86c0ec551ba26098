"""The decisions of the route controller, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.compilers import names
from kuberouter.compilers.routing import (
    compile_advertise,
    compile_cni,
    compile_exports,
    compile_nodesets,
    compile_peer,
    compile_plumbing,
    compile_route,
    compile_speaker,
)
from kuberouter.engine.ledger import Ledger
from kuberouter.model.bgp import (
    NeighborSetEntry,
    Path,
    Peer,
    Policy,
    PolicyAssignment,
    PrefixSetEntry,
    RouteDirection,
    Speaker,
    Statement,
)
from kuberouter.model.cluster import ForeignRoute, LearnedRoute, Node
from kuberouter.model.core import Family, Fragment, ObjectRef, Owner, Prefix, Rank, Reason
from kuberouter.model.events import Upserted
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.netfilter import Hook, IpSet, Member
from kuberouter.model.network import FouPort, FouPortKey, Link, LinkKind, PolicyRule, Route
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import NodeSettings, RouterSettings

T = TypeVar("T")
V4, V6 = Family.IPV4, Family.IPV6


def packed(text: str) -> bytes:
    return ip_address(text).packed


def block(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


FACTS = NodeFacts(
    "me",
    (packed("192.0.2.1"),),
    (block("10.244.1.0/24"),),
    "eth0",
    1500,
    (block("192.0.2.0/24"),),
    (packed("192.0.2.1"),),
)
DUAL = NodeFacts(
    "me",
    (packed("192.0.2.1"), packed("2001:db8::1")),
    (block("fd44:1::/64"), block("10.244.1.0/24")),
    "eth0",
    1500,
    (block("192.0.2.0/24"), block("2001:db8::/64")),
    (packed("192.0.2.1"), packed("2001:db8::1")),
)
ONLY_V6 = NodeFacts("me", (packed("2001:db8::1"),), (block("fd44:1::/64"),), "eth0", 1500)
SETTINGS = RouterSettings()


def node(name: str, *addresses: str, cidrs: Iterable[str] = ()) -> Node:
    return Node(
        ObjectRef("Node", "", name),
        internal_addresses=tuple(packed(a) for a in addresses),
        spec_pod_cidrs=tuple(block(c) for c in cidrs),
    )


def cluster(*objects: Node | LearnedRoute | ForeignRoute) -> Cluster:
    known = Cluster(NodeSettings("me"))
    for each in objects:
        known.apply(Upserted(each))
    return known


def own(compiler: str) -> Owner:
    return Owner(compiler, ObjectRef("Node", "", "me"))


def of(fragment: Fragment, kind: type[T]) -> list[T]:
    return [row for row in fragment.rows if isinstance(row, kind)]


# --- names


def test_names_are_those_known_of_old() -> None:
    assert names.tunnel_name(packed("10.0.0.1")) == "tun-e443169117a"
    assert names.generated_router_id(packed("10.0.0.1")) == packed("0.15.248.254")
    assert names.generated_router_id(packed("2001:db8::1")) == packed("110.91.4.244")
    assert names.generated_router_id(packed("fd00::10")) == packed("163.2.116.104")


# --- speaker


@pytest.mark.parametrize(
    ("facts", "wanted", "router_id"),
    [
        (FACTS, "", "192.0.2.1"),
        (FACTS, "203.0.113.7", "203.0.113.7"),
        (ONLY_V6, "", "110.91.4.244"),
        (ONLY_V6, "generate", "110.91.4.244"),
    ],
)
def test_router_id(facts: NodeFacts, wanted: str, router_id: str) -> None:
    settings = RouterSettings(router_id=wanted)
    (row,) = of(compile_speaker(own("speaker"), cluster(), node=facts, settings=settings), Speaker)
    assert row.router_id == packed(router_id)


def test_a_speaker_listens_on_addresses_that_it_has() -> None:
    translated = NodeFacts("me", DUAL.addresses, bindable=DUAL.addresses[1:])
    (row,) = of(compile_speaker(own("speaker"), cluster(), node=translated, settings=SETTINGS), Speaker)
    assert row.addresses == DUAL.addresses[1:]
    (row,) = of(compile_speaker(own("speaker"), cluster(), node=DUAL, settings=SETTINGS), Speaker)
    assert row.addresses == DUAL.addresses


# --- peers


def compile_other(other: Node, facts: NodeFacts = FACTS, settings: RouterSettings = SETTINGS) -> Fragment:
    return compile_peer(Owner("peer", other.ref), cluster(other), node=facts, settings=settings)


def test_another_node_is_a_peer_and_in_the_sets() -> None:
    fragment = compile_other(node("other", "192.0.2.9", "2001:db8::9"), DUAL, RouterSettings(asn=64600, bgp_port=1790))
    (peer,) = of(fragment, Peer)
    assert (peer.asn, peer.port, peer.local_address, peer.families) == (64600, 1790, packed("192.0.2.1"), (V4, V6))
    assert {row.key.set for row in of(fragment, NeighborSetEntry)} == {"iBGPpeerset", "allpeerset"}


def test_this_node_is_in_the_sets_but_no_peer() -> None:
    fragment = compile_other(node("me", "192.0.2.1"))
    assert not of(fragment, Peer)
    assert len(of(fragment, NeighborSetEntry)) == 2


def test_no_session_with_whom_there_can_be_none() -> None:
    assert compile_other(node("other", "192.0.2.9"), settings=RouterSettings(ibgp=False)) == Fragment()
    assert compile_other(node("other")) == Fragment()
    # Its IPv6 address does not count where IPv6 is not in use.
    (peer,) = of(compile_other(node("other", "2001:db8::9", "192.0.2.9")), Peer)
    assert peer.key.address == packed("192.0.2.9")
    for other in (node("other", "2001:db8::9", "192.0.2.9"), node("other", "192.0.2.1")):
        fragment = compile_other(other, DUAL)
        assert not fragment.rows
        assert [problem.reason for problem in fragment.problems] == [Reason.CONFLICT]


# --- what is advertised


def test_pod_cidrs_are_advertised_with_a_next_hop_of_their_family() -> None:
    fragment = compile_advertise(own("advertise"), cluster(), node=DUAL, settings=SETTINGS)
    assert {row.key.prefix: row.next_hop for row in of(fragment, Path)} == {
        block("10.244.1.0/24"): packed("192.0.2.1"),
        block("fd44:1::/64"): packed("2001:db8::1"),
    }
    assert {(e.key.set, e.key.shortest, e.key.longest) for e in of(fragment, PrefixSetEntry)} == {
        ("podcidrdefinedset", 24, 24),
        ("podcidrdefinedsetv6", 64, 64),
    }


def test_policy_is_closed_outwards_and_refers_to_sets_that_exist() -> None:
    fragment = compile_exports(own("exports"), cluster(), node=FACTS, settings=SETTINGS)
    defaults = {row.key.direction: row.accept for row in of(fragment, PolicyAssignment)}
    assert defaults == {RouteDirection.IMPORT: True, RouteDirection.EXPORT: False}
    statements = {row.key.name: row for row in of(fragment, Statement)}
    policies = {row.key.name: row.statements for row in of(fragment, Policy)}
    assert {name for names_ in policies.values() for name in names_} == set(statements)
    assert {name for row in of(fragment, PolicyAssignment) for name in row.policies} == set(policies)
    inside = {s.prefix_set for s in statements.values() if s.accept and s.neighbor_set.startswith("iBGP")}
    assert inside == set(names.POD_CIDR_PREFIXES.values())
    # To GoBGP an empty neighbor set is everybody.
    held = {row.key.set for row in of(fragment, NeighborSetEntry)}
    assert {s.neighbor_set for s in statements.values()} == held


# --- routes


def learn(
    prefix: str, *hops: str, nodes: Iterable[Node] = (), facts: NodeFacts = FACTS, settings: RouterSettings = SETTINGS
) -> Fragment:
    learned = LearnedRoute(ObjectRef("LearnedRoute", "", prefix), block(prefix), tuple(packed(h) for h in hops))
    return compile_route(Owner("route", learned.ref), cluster(learned, *nodes), node=facts, settings=settings)


NEAR, FAR = node("near", "192.0.2.2"), node("far", "198.51.100.3")


def test_a_neighbour_is_a_gateway() -> None:
    (route,) = learn("10.244.2.0/24", "192.0.2.2", nodes=[NEAR]).rows
    assert isinstance(route, Route)
    assert (route.key.table, route.gateways, route.devices) == (254, (packed("192.0.2.2"),), ())


def test_several_neighbours_share_the_load() -> None:
    (route,) = learn("10.244.2.0/24", "192.0.2.3", "192.0.2.2").rows
    assert isinstance(route, Route)
    assert route.gateways == (packed("192.0.2.2"), packed("192.0.2.3"))


def test_a_node_of_another_subnet_is_behind_a_tunnel() -> None:
    fragment = learn("10.244.3.0/24", "198.51.100.3", nodes=[FAR])
    (link,) = of(fragment, Link)
    assert (link.kind, link.local, link.remote) == (LinkKind.IPIP, packed("192.0.2.1"), packed("198.51.100.3"))
    assert (link.key.name, link.mtu) == (names.tunnel_name(packed("198.51.100.3")), 1480)
    routes = {(r.key.table, r.key.prefix): r for r in of(fragment, Route)}
    assert set(routes) == {(254, block("10.244.3.0/24")), (77, block("198.51.100.3/32"))}
    assert {r.devices for r in routes.values()} == {(link.key.name,)}
    assert routes[254, block("10.244.3.0/24")].source == packed("192.0.2.1")


def test_b17_a_route_that_takes_another_way_lets_go_of_the_former_tunnel() -> None:
    """The original left that link, and the entry of table 77, until the node was made anew."""
    nodes, owner = [FAR, node("off", "203.0.113.4")], Owner("route", ObjectRef("LearnedRoute", "", "10.99.0.0/24"))
    links, routes = Ledger[Link](), Ledger[Route]()
    for hop in ("198.51.100.3", "203.0.113.4"):
        fragment = learn("10.99.0.0/24", hop, nodes=nodes)
        links.claim(owner, of(fragment, Link), rank=Rank())
        routes.claim(owner, of(fragment, Route), rank=Rank())
    assert [link.remote for link in links.desired.values()] == [packed("203.0.113.4")]
    assert {route.key.prefix for route in routes.desired.values()} == {block("10.99.0.0/24"), block("203.0.113.4/32")}


def test_several_nodes_of_other_subnets_share_the_load_of_ipv4() -> None:
    nodes = [node("far", "198.51.100.3", "2001:db8:1::3"), node("off", "203.0.113.4", "2001:db8:2::4")]
    fragment = learn("10.99.0.0/24", "203.0.113.4", "198.51.100.3", nodes=nodes)
    links = {link.key.name for link in of(fragment, Link)}
    (route,) = (row for row in of(fragment, Route) if row.key.table == 254)
    assert route.devices == tuple(sorted(links))
    assert len(links) == 2
    # Linux has no such IPv6 route; one of them carries it all, always the same.
    six = [learn("fd99::/64", *hops, nodes=nodes, facts=DUAL) for hops in (SIX, tuple(reversed(SIX)))]
    assert six[0] == six[1]
    assert [link.remote for link in of(six[0], Link)] == [packed("2001:db8:1::3")]


SIX = ("2001:db8:2::4", "2001:db8:1::3")


def test_where_the_host_has_a_route_of_its_own_none_is_written() -> None:
    """pain 18: what a peer told replaced, and then took away, routes of the host."""
    learned = LearnedRoute(ObjectRef("LearnedRoute", "", "10.1.0.0/16"), block("10.1.0.0/16"), (packed("192.0.2.2"),))
    theirs = ForeignRoute(ObjectRef("ForeignRoute", "", "10.1.0.0/16"), "via 192.0.2.9 dev eth0 proto static")
    for objects, written in (((learned,), 1), ((learned, theirs), 0), ((theirs, learned), 0)):
        known = cluster(*objects)
        fragment = compile_route(Owner("route", learned.ref), known, node=FACTS, settings=SETTINGS)
        assert len(fragment.rows) == written
        assert [problem.reason for problem in fragment.problems] == [Reason.CONFLICT] * (1 - written)
    (problem,) = fragment.problems
    assert "10.1.0.0/16 that is not ours (via 192.0.2.9 dev eth0 proto static)" in problem.message


@pytest.mark.parametrize(
    ("prefix", "written"),
    [("10.244.9.0/24", True), ("10.244.0.0/16", True), ("10.0.0.0/8", False), ("10.245.0.0/24", False)],
)
def test_the_kernel_gets_only_what_may_be_learned(prefix: str, written: bool) -> None:
    settings = RouterSettings(import_allow=(block("10.244.0.0/16"), block("fd44::/32")))
    assert bool(learn(prefix, "192.0.2.2", settings=settings).rows) is written


def test_a_full_overlay_tunnels_to_neighbours_too() -> None:
    assert of(learn("10.244.2.0/24", "192.0.2.2", nodes=[NEAR], settings=RouterSettings(overlay_full=True)), Link)


def test_who_is_no_node_gets_no_tunnel() -> None:
    assert learn("10.99.0.0/16", "198.51.100.99", nodes=[FAR]) == Fragment()
    full = RouterSettings(overlay_full=True)
    (route,) = learn("10.99.0.0/16", "192.0.2.99", nodes=[FAR], settings=full).rows
    assert isinstance(route, Route)
    assert route.gateways == (packed("192.0.2.99"),)


def test_without_overlay_the_fabric_routes() -> None:
    assert learn("10.244.3.0/24", "198.51.100.3", nodes=[FAR], settings=RouterSettings(overlay=False)) == Fragment()


def test_own_pods_need_no_route_and_a_tunnel_does_not_carry_itself() -> None:
    assert learn("10.244.1.0/24", "192.0.2.2", nodes=[NEAR]) == Fragment()
    fragment = learn("198.51.100.0/24", "198.51.100.3", nodes=[FAR])
    assert not fragment.rows
    assert [problem.reason for problem in fragment.problems] == [Reason.UNSUPPORTED]


def test_ipv6_tunnels_are_ip6tnl() -> None:
    far = node("far", "2001:db8:1::3")
    fragment = learn("fd44:3::/64", "2001:db8:1::3", nodes=[far], facts=DUAL)
    (link,) = of(fragment, Link)
    assert (link.kind, link.mtu) == (LinkKind.IP6TNL, 1452)


def test_b13_tunnels_to_addresses_that_look_alike_have_different_names() -> None:
    """Two nodes whose addresses look alike without dots shared one tunnel, which led to only one of them."""
    one, two = node("one", "10.0.1.11"), node("two", "10.0.11.1")
    links = [
        link
        for prefix, hop in (("10.244.3.0/24", "10.0.1.11"), ("10.244.4.0/24", "10.0.11.1"))
        for link in of(learn(prefix, hop, nodes=[one, two]), Link)
    ]
    assert len({link.key for link in links}) == 2
    assert links[0].key.name == names.tunnel_name(packed("10.0.1.11"))
    assert names.tunnel_name(packed("10.0.1.11")) == names.tunnel_name(packed("10.0.11.1"))


def test_tunnels_carry_packets_in_udp_where_that_is_asked_for() -> None:
    fou = RouterSettings(overlay_encap="fou", overlay_port=5555)
    far = node("far", "198.51.100.3", "2001:db8:1::3")
    for prefix, hop, mtu in (("10.244.3.0/24", "198.51.100.3", 1468), ("fd44:3::/64", "2001:db8:1::3", 1440)):
        (link,) = of(learn(prefix, hop, nodes=[far], facts=DUAL, settings=fou), Link)
        assert (link.encap_port, link.mtu) == (5555, mtu)
    for settings, expected in (
        (fou, {V4, V6}),
        (RouterSettings(overlay_port=5555), {V4, V6}),
        (SETTINGS, set()),
        (RouterSettings(overlay=False, overlay_encap="fou", overlay_port=5555), set()),
    ):
        fragment = compile_plumbing(own("plumbing"), cluster(), node=DUAL, settings=settings)
        assert {row.key for row in of(fragment, FouPort)} == {FouPortKey(family, 5555) for family in expected}
    # A port that is only open for others sends nothing there.
    (link,) = of(learn("10.244.3.0/24", "198.51.100.3", nodes=[far], settings=RouterSettings(overlay_port=5555)), Link)
    assert link.encap_port == 0


# --- plumbing, sets, CNI


def test_plumbing_of_both_families() -> None:
    fragment = compile_plumbing(own("plumbing"), cluster(), node=DUAL, settings=SETTINGS)
    (bridge,) = of(fragment, Link)
    assert (bridge.key.name, bridge.kind, bridge.mtu) == ("kube-bridge", LinkKind.BRIDGE, 1452)
    assert {row.key.path for row in of(fragment, Sysctl) if row.value == "1"} == {
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
    }
    kept = [(row.key.path, row.value, row.optional) for row in of(fragment, Sysctl) if row.value == "2"]
    assert kept == [("net/ipv6/conf/eth0/accept_ra", "2", True)], "the uplink's IPv6 default route stays"
    forward = {row.key.text for row in of(fragment, Hook) if row.key.chain == "FORWARD" and row.key.family is V6}
    assert forward == {"-i kube-bridge -j ACCEPT", "-o kube-bridge -j ACCEPT", "-o eth0 -j ACCEPT"}
    (egress,) = (row for row in of(fragment, Hook) if row.key.chain == "POSTROUTING" and row.key.family is V4)
    assert egress.key.text == (
        "-m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst"
        " -m set ! --match-set kube-router-node-ips dst -j MASQUERADE --random-fully"
    )
    assert {row.key.name for row in of(fragment, IpSet)} == {
        "kube-router-pod-subnets",
        "kube-router-node-ips",
        "inet6:kube-router-pod-subnets",
        "inet6:kube-router-node-ips",
    }
    assert {row.key.source for row in of(fragment, PolicyRule)} == set(DUAL.pod_cidrs)


def test_networks_that_see_pods_themselves_are_spared_in_their_family() -> None:
    """pain 24: destinations to which pods have to speak from their own addresses."""
    settings = RouterSettings(plain_destinations=(block("203.0.113.0/24"), block("10.0.0.0/8"), block("10.0.0.0/8")))
    fragment = compile_plumbing(own("plumbing"), cluster(), node=DUAL, settings=settings)
    texts = {row.key.family: row.key.text for row in of(fragment, Hook) if row.key.chain == "POSTROUTING"}
    assert texts[V4] == (
        "-m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst"
        " -m set ! --match-set kube-router-node-ips dst -m set ! --match-set kube-router-no-masquerade dst"
        " -j MASQUERADE --random-fully"
    )
    assert names.PLAIN_SET not in texts[V6]
    assert [(row.key.set, row.key.address, row.key.length) for row in of(fragment, Member)] == [
        ("kube-router-no-masquerade", packed("203.0.113.0"), 24),
        ("kube-router-no-masquerade", packed("10.0.0.0"), 8),
    ]
    off = RouterSettings(plain_destinations=settings.plain_destinations, pod_egress=False)
    assert not of(compile_plumbing(own("plumbing"), cluster(), node=DUAL, settings=off), Member)
    assert len(names.set_name(names.PLAIN_SET, V6)) <= 31


def test_what_is_switched_off_is_not_there() -> None:
    settings = RouterSettings(pod_egress=False, overlay=False, cni=False)
    fragment = compile_plumbing(own("plumbing"), cluster(), node=FACTS, settings=settings)
    assert not of(fragment, PolicyRule)
    assert {row.key.chain for row in of(fragment, Hook)} == {"FORWARD"}
    assert compile_cni(own("cni"), cluster(), node=FACTS, settings=settings) == Fragment()


def test_every_node_is_in_the_egress_sets() -> None:
    other = node("other", "192.0.2.9", "2001:db8::9", cidrs=["10.244.9.0/24", "fd44:9::/64"])
    fragment = compile_nodesets(Owner("nodesets", other.ref), cluster(other), node=FACTS, settings=SETTINGS)
    assert {(row.key.set, row.key.address, row.key.length) for row in of(fragment, Member)} == {
        ("kube-router-pod-subnets", packed("10.244.9.0"), 24),
        ("kube-router-node-ips", packed("192.0.2.9"), 32),
    }


def test_cni_ranges_begin_with_ipv4_and_none_is_a_problem() -> None:
    (row,) = of(compile_cni(own("cni"), cluster(), node=DUAL, settings=SETTINGS), CniSettings)
    assert [prefix.family for prefix in row.ranges] == [V4, V6]
    assert row.mtu == 1452
    bare = NodeFacts("me", FACTS.addresses)
    fragment = compile_cni(own("cni"), cluster(), node=bare, settings=SETTINGS)
    assert not fragment.rows
    assert [(p.field, p.reason) for p in fragment.problems] == [("spec.podCIDRs", Reason.MISSING)]
