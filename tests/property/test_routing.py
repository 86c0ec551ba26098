"""Nodes and learned routes to rows: any road to a state ends in the same rows, and an event touches little."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.cluster.dependents import routing
from kuberouter.compilers.routing import COMPILERS
from kuberouter.model import bgp
from kuberouter.model.cluster import (
    Endpoint,
    EndpointSlice,
    ForeignRoute,
    Interface,
    InterfaceAddress,
    LearnedRoute,
    Node,
    NodeOptions,
    Service,
    ServiceOptions,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Prefix, Row, Secret
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.netfilter import Hook, IpSet, Member
from kuberouter.model.network import TABLE_MAIN, FouPort, Link, PolicyRule, Route
from kuberouter.model.settings import AddressRules, Advertise, GracefulRestart, RouterSettings
from tests.support.examples import examples
from tests.support.world import NODE, World

ROWS: tuple[type[Row], ...] = (Sysctl, IpSet, Member, Hook, FouPort, Link, Route, PolicyRule, *bgp.TABLES, CniSettings)
LEARNED, FOREIGN = "LearnedRoute", "ForeignRoute"
FAMILIES = (Family.IPV4, Family.IPV6)
NAMES = (NODE, "node-2", "node-3")
ADDRESSES = [
    ip_address(text).packed
    for text in (
        "192.0.2.1",
        "192.0.2.2",
        "10.0.1.11",
        "10.0.11.1",  # without dots the same as the one before
        "2001:db8::2",
    )
]
CIDRS = [Prefix(bytes((10, 244, n, 0)), 24) for n in (1, 2, 3)] + [Prefix(ip_address("fd44:2::").packed, 64)]
SETTINGS = (
    RouterSettings(),
    RouterSettings(overlay_full=True),
    RouterSettings(overlay=False, pod_egress=False, cni=False),
    RouterSettings(ibgp=False, auto_mtu=False),
    RouterSettings(full_mesh=False, graceful=GracefulRestart()),
    RouterSettings(overlay_encap="fou", overlay_port=5555),
    RouterSettings(import_allow=(CIDRS[1],), advertise=Advertise(pod_cidr=False)),
)
ADVERTISING = tuple(
    RouterSettings(advertise=advertise, addresses=AddressRules(strict=False))
    for advertise in (Advertise(True, True, True, True), Advertise(True, False, True, False, True))
)
OUTSIDE = bgp.PeerSpec(ip_address("192.0.2.254").packed, 65000, password=Secret("hush"))
annotations = st.builds(
    bgp.NodeBgp,
    asn=st.sampled_from((0, 64601, 64602)),
    reflector=st.sampled_from(
        (None, bgp.Reflector(ADDRESSES[0], server=True), bgp.Reflector(ADDRESSES[0]), bgp.Reflector(ADDRESSES[1]))
    ),
    communities=st.sampled_from(((), (1, 2))),
    import_reject=st.sampled_from(((), (CIDRS[0], CIDRS[3]))),
    # A node of the cluster can be named as well.
    peers=st.sampled_from((None, (OUTSIDE,), (bgp.PeerSpec(ADDRESSES[2], 65001),))),
)

"""What nodes say of BGP; half of them nothing."""

nodes = st.builds(
    lambda name, addresses, cidrs, said: Node(
        ObjectRef("Node", "", name),
        # This node always has an address: without one its facts stay what they were, and history would count.
        internal_addresses=(ADDRESSES[0],) if name == NODE else tuple(addresses),
        # So that not every change of this node is one of its facts.
        spec_pod_cidrs=(CIDRS[0],) if name == NODE and said else tuple(cidrs),
        options=NodeOptions(bgp=said or bgp.NodeBgp()),
    ),
    # A change of this node compiles everything again and hides what an event forgot to touch, so it is rare.
    st.sampled_from((*NAMES[1:] * 3, NODE)),
    st.lists(st.sampled_from((*ADDRESSES[1:], *ADDRESSES[2:4])), max_size=2, unique=True),
    st.lists(st.sampled_from(CIDRS), max_size=2, unique=True),
    st.one_of(st.none(), annotations),
)
routes = st.builds(
    lambda prefix, hops: LearnedRoute(ObjectRef("LearnedRoute", "", repr(prefix)), prefix, tuple(hops)),
    st.sampled_from(CIDRS),
    st.lists(st.sampled_from(ADDRESSES[1:]), min_size=1, max_size=2, unique=True),
)
SERVICES = [ObjectRef("Service", "shop", name) for name in "ab"]
services = st.builds(
    lambda ref, created, kind, cluster, outside, ports, local, advertise: Service(
        ref,
        created,
        kind,
        cluster,
        outside[:1],
        outside[1:],
        tuple(ServicePort(str(port), L4Protocol.TCP, port) for port in ports),
        internal_local=local,
        external_local=local,
        options=ServiceOptions(advertise_external_ip=advertise),
    ),
    st.sampled_from(SERVICES),
    st.sampled_from((1.0, 2.0)),
    st.sampled_from((ServiceType.CLUSTER_IP, ServiceType.LOAD_BALANCER)),
    st.sampled_from(((), *[(bytes((10, 96, 0, 1)),)] * 2, (bytes((10, 96, 0, 1)), ip_address("fd96::1").packed))),
    # One that both may have, one that a node has.
    st.lists(st.sampled_from((bytes((203, 0, 113, 1)), ADDRESSES[1])), max_size=2, unique=True).map(tuple),
    st.sampled_from(((80,), (80,), (81,), (80, 81))),
    st.booleans(),
    st.sampled_from((None, True, False)),
)
slices = st.builds(
    lambda ref, part, port, found: EndpointSlice(
        ObjectRef("EndpointSlice", "shop", ref.name + part),
        ref,
        (SlicePort(str(port), L4Protocol.TCP, 8080),),
        tuple(Endpoint(bytes((10, 244, 1, n)), conditions, node) for n, (conditions, node) in enumerate(found)),
    ),
    st.sampled_from(SERVICES),
    st.sampled_from("xy"),
    st.sampled_from((80, 80, 81)),
    st.lists(st.tuples(st.sampled_from((3, 3, 3, 0, 6, 7)), st.sampled_from(NAMES[:2])), max_size=2),
)
interfaces = st.builds(
    lambda mtu, length: Interface(
        ObjectRef("Interface", "", "eth0"), 2, mtu, (InterfaceAddress(ADDRESSES[0], length),)
    ),
    st.sampled_from((1500, 9000)),
    st.sampled_from((24, 32)),
)
foreign = st.builds(
    lambda prefix, text: ForeignRoute(ObjectRef("ForeignRoute", "", repr(prefix)), text),
    st.sampled_from(CIDRS),
    st.sampled_from(("via 192.0.2.9", "dev eth1")),
)
removals = st.builds(
    Deleted,
    st.one_of(
        st.sampled_from([ObjectRef("Node", "", name) for name in NAMES[1:]]),
        st.sampled_from([ObjectRef(kind, "", repr(prefix)) for kind in (LEARNED, FOREIGN) for prefix in CIDRS]),
    ),
)
departures = st.builds(
    Deleted, st.sampled_from([*SERVICES, *(ObjectRef("EndpointSlice", "shop", name) for name in ("ax", "bx"))])
)
events = st.lists(
    st.one_of(
        *[st.builds(Upserted, nodes), st.builds(Upserted, routes), removals, st.builds(Upserted, foreign)] * 3,
        st.builds(Upserted, interfaces),
    ),
    min_size=6,
    max_size=25,
)
ends = st.builds(
    lambda draining, unschedulable: Node(
        ObjectRef("Node", "", NODE),
        internal_addresses=(ADDRESSES[0],),
        spec_pod_cidrs=(CIDRS[0],),
        draining=draining,
        unschedulable=unschedulable,
    ),
    st.booleans(),
    st.booleans(),
)
served = st.lists(
    st.one_of(*[st.builds(Upserted, kind) for kind in (services, slices) * 2 + (nodes, ends)], departures),
    min_size=6,
    max_size=25,
)
"""The same with Services."""
ME = Upserted(Node(ObjectRef("Node", "", NODE), internal_addresses=(ADDRESSES[0],), spec_pod_cidrs=(CIDRS[0],)))


def world(router: RouterSettings) -> World:
    return World([routing], COMPILERS, router, ROWS, FAMILIES)


def contents(world: World) -> dict[type[Row], dict[Any, Any]]:
    return {row: world.table(row) for row in ROWS}


def fresh(final: Sequence[Upserted], router: RouterSettings) -> dict[type[Row], dict[Any, Any]]:
    other = world(router)
    for event in final:
        other.put(event)
    other.sync()
    return contents(other)


@examples(150)
@given(events, st.lists(st.booleans(), min_size=25, max_size=25), st.sampled_from(SETTINGS))
def test_any_road_ends_in_the_same_rows(
    history: list[Upserted | Deleted], flushes: list[bool], router: RouterSettings
) -> None:
    walked = world(router)
    state: dict[ObjectRef, Upserted] = {}
    for event, flush in zip([ME, *history], [True, *flushes], strict=False):
        walked.put(event)
        if isinstance(event, Upserted):
            state[event.obj.ref] = event
        else:
            state.pop(event.ref, None)
        if flush:
            walked.sync()
    walked.sync()
    assert contents(walked) == fresh(list(state.values()), router)
    assert contents(walked) == fresh(list(reversed(state.values())), router)


@examples(60)
@given(served, st.sampled_from(ADVERTISING))
def test_services_are_told_of_alike_by_any_road(history: list[Upserted | Deleted], router: RouterSettings) -> None:
    walked = world(router)
    state: dict[ObjectRef, Upserted] = {}
    for event in (ME, *history):
        walked.put(event)
        walked.sync()
        if isinstance(event, Upserted):
            state[event.obj.ref] = event
        else:
            state.pop(event.ref, None)
        assert contents(walked) == fresh(list(state.values()), router)


@examples(60)
@given(st.one_of(events, served), st.sampled_from((*SETTINGS, *ADVERTISING)))
def test_rows_hang_together(history: list[Upserted | Deleted], router: RouterSettings) -> None:
    walked = world(router)
    for event in (ME, *history):
        walked.put(event)
    walked.sync()
    tables = contents(walked)
    links = {key.name: link for key, link in tables[Link].items()}
    for route in tables[Route].values():
        assert bool(route.gateways) is not bool(route.devices)
        assert {*route.devices} <= links.keys()
        assert len(route.devices) <= 1 or (route.key.table == TABLE_MAIN and len(route.key.prefix.address) == 4)
        if route.devices and route.key.table != TABLE_MAIN:
            assert links[route.devices[0]].remote == route.key.prefix.address
    # A tunnel stands only while a route needs it.
    used = {each for route in tables[Route].values() if route.key.table == TABLE_MAIN for each in route.devices}
    assert {name for name in links if name.startswith("tun-")} == used
    sets = {key.name for key in tables[IpSet]}
    assert {key.set for key in tables[Member]} <= sets
    defined = {key.name for key in tables[bgp.DefinedSet]}
    assert {key.set for row in (bgp.PrefixSetEntry, bgp.NeighborSetEntry) for key in tables[row]} <= defined
    assert router.ibgp or not any(key.address in ADDRESSES[3:] for key in tables[bgp.Peer])
    # What is told of a Service passes the policies outwards, and never inwards.
    told = {key.prefix for key in tables[bgp.Path] if key.prefix.length == len(key.prefix.address) * 8}
    assert {key.prefix for key in tables[bgp.PrefixSetEntry] if key.set.startswith("servicevips")} == told
    # Who has a session is known to the policies of both directions.
    everybody = {key.prefix.address for key in tables[bgp.NeighborSetEntry] if key.set.startswith("allpeer")}
    assert {key.address for key in tables[bgp.Peer]} <= everybody


def test_a_node_touches_its_own_rows_only() -> None:
    big = world(RouterSettings())
    big.put(ME)
    for number in range(2, 200):
        ref = ObjectRef("Node", "", f"node-{number}")
        big.put(Upserted(Node(ref, (bytes((198, 51, 100, number)),), (), (Prefix(bytes((10, 245, number, 0)), 24),))))
        prefix = Prefix(bytes((10, 245, number, 0)), 24)
        learned = LearnedRoute(ObjectRef("LearnedRoute", "", repr(prefix)), prefix, (bytes((198, 51, 100, number)),))
        big.put(Upserted(learned))
    big.sync()
    before = sum(len(table) for table in contents(big).values())
    big.put(Deleted(ObjectRef("Node", "", "node-9")))
    # Peer, two set entries, two set members; tunnel and its two routes, as whose end only nodes count.
    assert big.sync() == 8
    assert sum(len(table) for table in contents(big).values()) == before - 8


def test_a_node_that_looks_like_another_renames_its_tunnel() -> None:
    late, early = (
        Node(ObjectRef("Node", "", name), (address,)) for name, address in zip("ab", ADDRESSES[2:4], strict=True)
    )
    learned = [
        LearnedRoute(ObjectRef("LearnedRoute", "", name), CIDRS[n], (ADDRESSES[n + 1],))
        for n, name in ((1, "x"), (2, "y"))
    ]
    history = [ME, *map(Upserted, [*learned, early, late])]
    walked = world(RouterSettings())
    for event in history:
        walked.put(event)
        walked.sync()
    tunnels = [key.name for key in walked.table(Link) if key.name.startswith("tun-")]
    assert len(tunnels) == 2
    assert contents(walked) == fresh(history, RouterSettings())


def test_b10_a_tunnel_stands_as_long_as_a_route_needs_it() -> None:
    """A tunnel went with the first route that went, or changed its way, and took the others' packets with it."""
    far, near = ip_address("198.51.100.3").packed, ip_address("192.0.2.2").packed
    walked = world(RouterSettings())
    eth0 = Interface(ObjectRef("Interface", "", "eth0"), 2, 1500, (InterfaceAddress(ADDRESSES[0], 24),))
    other = Node(ObjectRef("Node", "", "far"), (far,))
    first, second = (LearnedRoute(ObjectRef("LearnedRoute", "", repr(c)), c, (far,)) for c in CIDRS[1:3])
    for event in (ME, Upserted(eth0), Upserted(other), Upserted(first), Upserted(second)):
        walked.put(event)
    walked.sync()

    def tunnels() -> set[bytes]:
        return {link.remote for link in walked.table(Link).values() if link.remote}

    assert tunnels() == {far}
    walked.put(Deleted(first.ref))
    walked.sync()
    assert tunnels() == {far}
    # It is no more the way to this prefix, but was, and another's prefix comes in.
    walked.put(Upserted(first))
    walked.put(Upserted(LearnedRoute(second.ref, second.prefix, (near,))))
    walked.sync()
    assert tunnels() == {far}
    walked.put(Deleted(first.ref))
    walked.sync()
    assert tunnels() == set()
