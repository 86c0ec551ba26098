"""Services to IPVS: any road to a state of the cluster ends in the same rows, and those are what the rules say."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.compilers.names import RESTRICTED_SET, SERVICE_ADDRESS_SET, SERVICE_PORT_SET
from kuberouter.model.cluster import (
    ClusterObject,
    Endpoint,
    EndpointSlice,
    Hints,
    Interface,
    InterfaceAddress,
    Node,
    Service,
    ServiceOptions,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Prefix, Reason
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.host import HealthPort
from kuberouter.model.ipvs import Destination, VirtualService
from kuberouter.model.netfilter import Member
from kuberouter.model.network import Address
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.property.expectation import FAMILIES, LOOPBACK, READY, SERVING, TERMINATING, Expectation, health_ports
from tests.support.examples import examples
from tests.support.world import NODE, ROWS, ProxyWorld

ZONE = "zone-a"
ADDRESSES = {Family.IPV4: ip_address("192.0.2.1").packed, Family.IPV6: ip_address("2001:db8::1").packed}
VIPS = [ip_address(f"10.96.0.{n}").packed for n in (1, 2)] + [ip_address(f"fd96::{n}").packed for n in (1, 2)]
PODS = {
    Family.IPV4: [ip_address(f"10.244.0.{n}").packed for n in range(1, 6)],
    Family.IPV6: [ip_address(f"fd44::{n}").packed for n in range(1, 6)],
}
SECOND = ip_address("198.51.100.1").packed
"""Another address of the node, within the range of external ones."""
OUTER = [SECOND, *(ip_address(a).packed for a in ("198.51.100.7", "203.0.113.7", "2001:db8:1::7", "10.96.0.1"))]
"""External addresses within and without ranges, of the node, and another Service's cluster IP."""
RULES = AddressRules(
    True,
    (Prefix(bytes((10, 96, 0, 0)), 16),),
    (Prefix(bytes((198, 51, 100, 0)), 24), Prefix(ip_address("2001:db8:1::").packed, 48)),
    (Prefix(bytes((203, 0, 113, 0)), 24), Prefix(SECOND, 32)),
)
WAYS = (
    ProxySettings(addresses=RULES),
    ProxySettings(addresses=AddressRules()),
    ProxySettings(addresses=AddressRules(strict=False), node_ports_everywhere=True),
)

SERVICES = [ObjectRef("Service", "shop", name) for name in ("a", "b")]
SLICES = [ObjectRef("EndpointSlice", "shop", f"slice-{n}") for n in range(3)]
CONDITIONS = (READY | SERVING, SERVING | TERMINATING, TERMINATING, 0)

ports = st.lists(
    st.builds(
        ServicePort,
        name=st.sampled_from(("http", "http", "dns")),
        protocol=st.sampled_from((L4Protocol.TCP, L4Protocol.TCP, L4Protocol.UDP)),
        port=st.sampled_from((80, 80, 81)),
        node_port=st.sampled_from((0, 80, 30080, 30081)),
    ),
    min_size=1,
    max_size=2,
    # The API admits neither a name twice nor a port of a protocol twice in one Service.
    unique_by=(lambda p: p.name, lambda p: (p.port, p.protocol), lambda p: (p.node_port or p.name, p.protocol)),
).map(tuple)


@st.composite
def services(draw: st.DrawFn, ref: ObjectRef | None = None) -> Service:
    return Service(
        ref=ref or draw(st.sampled_from(SERVICES)),
        created=float(draw(st.integers(0, 2))),
        type=ServiceType.NODE_PORT,
        cluster_ips=tuple(draw(st.sampled_from((VIPS[:1], VIPS[:1], VIPS[::2], VIPS[1:3], ())))),
        external_ips=tuple(draw(st.lists(st.sampled_from(OUTER), max_size=2, unique=True))),
        load_balancer_ips=tuple(draw(st.lists(st.sampled_from(OUTER), max_size=2, unique=True))),
        ports=draw(ports),
        affinity_seconds=draw(st.sampled_from((0, 0, 600))),
        internal_local=draw(st.booleans()),
        external_local=draw(st.booleans()),
        health_check_node_port=draw(st.sampled_from((0, 32000, 32001))),
        publish_not_ready=draw(st.sampled_from((False, False, False, True))),
        source_ranges=draw(
            st.sampled_from(
                (None, None, (), (Prefix(bytes((10, 0, 0, 0)), 8),), (Prefix(bytes(4), 0), Prefix(SECOND, 32)))
            )
        ),
        proxied=draw(st.sampled_from((True, True, True, True, False))),
        options=ServiceOptions(
            scheduler=draw(st.sampled_from(("rr", "sh"))),
            sched_flags=draw(st.sampled_from((0, 0x10))),
            local=draw(st.sampled_from((False, False, True))),
            hairpin=draw(st.booleans()),
            skip_lb_ips=draw(st.sampled_from((False, False, True))),
        ),
    )


HINTS = st.sampled_from((None, Hints((ZONE,)), Hints(("zone-b",)), Hints((ZONE, "zone-b"), (NODE,)), Hints((), ("o",))))


@st.composite
def slices(draw: st.DrawFn, ref: ObjectRef | None = None) -> EndpointSlice:
    family = draw(st.sampled_from((*FAMILIES, Family.IPV4)))
    chosen = draw(st.lists(st.sampled_from(PODS[family]), min_size=1, max_size=3))
    hints = draw(st.sampled_from((st.none(), HINTS, HINTS)))
    return EndpointSlice(
        ref=ref or draw(st.sampled_from(SLICES)),
        service=draw(st.sampled_from((SERVICES[0], SERVICES[0], SERVICES[1]))),
        ports=tuple(
            SlicePort(name, protocol, 8000 + len(name))
            for name in draw(st.sampled_from((("http", "dns"), ("http", "dns"), ("http",), ())))
            for protocol in (L4Protocol.TCP, L4Protocol.UDP)
        ),
        endpoints=tuple(
            Endpoint(a, draw(st.sampled_from(CONDITIONS)), draw(st.sampled_from((NODE, "other"))), draw(hints))
            for a in chosen
        ),
    )


nodes = st.builds(
    lambda four, six, zone: Node(
        ObjectRef("Node", "", NODE),
        internal_addresses=(ip_address(f"192.0.2.{four}").packed, *([ADDRESSES[Family.IPV6]] if six else [])),
        zone=zone,
    ),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from((ZONE, ZONE, "zone-b", "")),
)
LINK = ObjectRef("Interface", "", "eth0")
links = st.lists(st.sampled_from((SECOND, *LOOPBACK)), unique=True).map(
    lambda found: Interface(LINK, 2, 1500, tuple(InterfaceAddress(a, 24) for a in found))
)
OTHER = ObjectRef("Node", "", "other")
other_nodes = st.lists(st.sampled_from(OUTER[:3]), min_size=1, max_size=2).map(
    lambda found: Node(OTHER, internal_addresses=tuple(found[:1]), external_addresses=tuple(found[1:]))
)
deletions = st.sampled_from([*SERVICES, *SLICES, LINK, OTHER]).map(Deleted)
some_slice = slices().map(Upserted)
event = st.one_of(
    services().map(Upserted),
    *(some_slice, some_slice, some_slice),
    deletions,
    nodes.map(Upserted),
    links.map(Upserted),
    other_nodes.map(Upserted),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Upserted | Deleted]:
    """Few objects and few values, so that they meet: everything exists once, then things happen."""
    first = [*(draw(services(ref)) for ref in SERVICES), *(draw(slices(ref)) for ref in SLICES)]
    return [*map(Upserted, first), *draw(st.lists(event, max_size=12))]


START = Node(ObjectRef("Node", "", NODE), internal_addresses=tuple(ADDRESSES.values()), zone=ZONE)


def fresh(way: ProxySettings) -> ProxyWorld:
    world = ProxyWorld(way, families=FAMILIES)
    world.put(Upserted(START))
    return world


def kernel(world: ProxyWorld) -> dict[type, dict[Any, Any]]:
    return {row: dict(world.table(row)) for row in ROWS}


def final(history: Sequence[Upserted | Deleted]) -> dict[ObjectRef, ClusterObject]:
    """The objects that exist in the end."""
    found: dict[ObjectRef, ClusterObject] = {START.ref: START}
    for event in history:
        if isinstance(event, Upserted):
            found[event.obj.ref] = event.obj
        else:
            found.pop(event.ref, None)
    return found


@examples(60)
@given(histories(), st.sampled_from(WAYS), st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_road_ends_in_what_the_rules_say(
    history: list[Upserted | Deleted], way: ProxySettings, flush: int, dice: Any
) -> None:
    follow(history, way, flush, dice)


hinted = st.builds(
    Endpoint,
    st.sampled_from(PODS[Family.IPV4][:2]),
    st.sampled_from((READY, READY, SERVING | TERMINATING)),
    st.sampled_from((NODE, "other")),
    st.sampled_from((Hints((ZONE,)), Hints((ZONE,), (NODE,)), Hints(("zone-b",), ("other",)), None)),
)
hinting = st.builds(
    lambda ref, endpoints: EndpointSlice(ref, SERVICES[0], (SlicePort("http", L4Protocol.TCP, 80),), tuple(endpoints)),
    st.sampled_from(SLICES),
    st.lists(hinted, min_size=1, max_size=2),
)
ONE = Service(SERVICES[0], 0.0, ServiceType.CLUSTER_IP, (VIPS[0],), ports=(ServicePort("http", L4Protocol.TCP, 80),))


@examples(60)
@given(
    st.lists(st.one_of(hinting.map(Upserted), hinting.map(Upserted), nodes.map(Upserted)), min_size=2, max_size=8),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_hints_are_followed_over_all_slices(history: list[Upserted | Deleted], flush: int, dice: Any) -> None:
    follow([Upserted(ONE), *history], WAYS[0], flush, dice)


contender = st.builds(
    lambda ref, created, cluster, lb, external, port: Service(
        ref, created, ServiceType.LOAD_BALANCER, (cluster,), external, lb, (port,)
    ),
    st.sampled_from(SERVICES),
    st.sampled_from((0.0, 1.0)),
    st.sampled_from((VIPS[0], VIPS[2])),
    st.sampled_from(((), (), (SECOND,), (OUTER[2],))),
    st.sampled_from(((), (SECOND,), (SECOND,), (OUTER[1],), (VIPS[0],))),
    st.builds(ServicePort, st.just("http"), st.just(L4Protocol.TCP), st.just(80), st.sampled_from((0, 80))),
)
POPULATED = [
    Upserted(Interface(LINK, 2, 1500, (InterfaceAddress(SECOND, 24),))),
    *(
        Upserted(
            EndpointSlice(
                SLICES[n], ref, (SlicePort("http", L4Protocol.TCP, 8000 + n),), (Endpoint(PODS[Family.IPV4][n], READY),)
            )
        )
        for n, ref in enumerate(SERVICES)
    ),
]


@examples(60)
@given(
    st.lists(
        st.one_of(contender.map(Upserted), contender.map(Upserted), st.sampled_from(SERVICES).map(Deleted))
    ).filter(lambda found: len(found) > 1),
    st.sampled_from((WAYS[0], WAYS[2], WAYS[2])),
    st.randoms(use_true_random=False),
)
def test_b05_an_address_that_two_want_has_one_owner(
    history: list[Upserted | Deleted], way: ProxySettings, dice: Any
) -> None:
    """B5: the winner of a contested address was random, and backends of both flapped."""
    follow([*POPULATED, *history], way, 1, dice)


def follow(history: list[Upserted | Deleted], way: ProxySettings, flush: int, dice: Any) -> None:
    """Go a road, look at every stop, and come to its end once more from nothing and in any order."""
    world = fresh(way)
    for number, event in enumerate(history):
        world.put(event)
        if number % flush == 0:
            world.sync()
            check(world, final(history[: number + 1]), way)
    world.sync()
    check(world, final(history), way)
    scratch = fresh(way)
    objects = list(final(history).values())
    dice.shuffle(objects)
    for obj in objects:
        scratch.put(Upserted(obj))
    scratch.sync()
    assert kernel(world) == kernel(scratch)
    assert set(world.journal.standing) == set(scratch.journal.standing)
    assert world.sync() == 0


def check(world: ProxyWorld, objects: dict[ObjectRef, ClusterObject], way: ProxySettings) -> None:
    """Everything that depends on Services is what the rules ask for."""
    expected = Expectation(list(objects.values()), way, world.planner.cluster.marks.mark)
    assert set(world.table(VirtualService)) == set(expected.services)
    found: dict[Any, set[tuple[bytes, int]]] = {key: set() for key in expected.services}
    for key in world.table(Destination):
        found[key.service].add((key.address, key.port))
    assert found == expected.services
    assert {key.address for key in world.table(Address)} == expected.brought
    entries: dict[str, set[tuple[bytes, int, int]]] = {}
    for key in world.table(Member):
        entries.setdefault(key.set.removeprefix("inet6:"), set()).add((key.address, key.protocol, key.port))
    assert entries.get(SERVICE_PORT_SET, set()) == {
        *((key.address, key.protocol, key.port) for key in expected.services if not key.mark),
        *expected.asked,
    }
    assert {address for address, *_ in entries.get(SERVICE_ADDRESS_SET, ())} == expected.brought
    assert entries.get(RESTRICTED_SET, set()) == expected.restricted
    refused = [p.owner for p in world.journal.standing if p.reason is Reason.FORBIDDEN]
    assert sorted(map(str, refused)) == sorted(map(str, expected.refused))
    assert set(world.table(HealthPort).values()) == health_ports(list(objects.values()))
