"""Services to IPVS: any road to a state of the cluster ends in the same rows, and those are what the rules say."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kuberouter.model.cluster import (
    ClusterObject,
    Endpoint,
    EndpointCondition,
    EndpointSlice,
    Node,
    Service,
    ServiceOptions,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kuberouter.model.core import Family, L4Protocol, ObjectRef, family_of
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.host import HealthPort, HealthPortKey
from kuberouter.model.ipvs import Destination, VirtualService
from tests.support.world import NODE, ROWS, ProxyWorld

FAMILIES = (Family.IPV4, Family.IPV6)
ADDRESSES = {Family.IPV4: ip_address("192.0.2.1").packed, Family.IPV6: ip_address("2001:db8::1").packed}
VIPS = [ip_address(f"10.96.0.{n}").packed for n in (1, 2)] + [ip_address(f"fd96::{n}").packed for n in (1, 2)]
PODS = {
    Family.IPV4: [ip_address(f"10.244.0.{n}").packed for n in range(1, 6)],
    Family.IPV6: [ip_address(f"fd44::{n}").packed for n in range(1, 6)],
}
SERVICES = [ObjectRef("Service", "shop", name) for name in ("a", "b")]
SLICES = [ObjectRef("EndpointSlice", "shop", f"slice-{n}") for n in range(3)]
READY, SERVING, TERMINATING = (c.value for c in EndpointCondition)
CONDITIONS = (READY | SERVING, SERVING | TERMINATING, TERMINATING, 0)

ports = st.lists(
    st.builds(
        ServicePort,
        name=st.sampled_from(("http", "http", "dns")),
        protocol=st.sampled_from((L4Protocol.TCP, L4Protocol.TCP, L4Protocol.UDP)),
        port=st.sampled_from((80, 80, 81)),
        node_port=st.sampled_from((0, 30080, 30081)),
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
        ports=draw(ports),
        affinity_seconds=draw(st.sampled_from((0, 0, 600))),
        internal_local=draw(st.booleans()),
        external_local=draw(st.booleans()),
        health_check_node_port=draw(st.sampled_from((0, 32000, 32001))),
        proxied=draw(st.sampled_from((True, True, True, True, False))),
        options=ServiceOptions(
            scheduler=draw(st.sampled_from(("rr", "sh"))), local=draw(st.sampled_from((False, False, True)))
        ),
    )


@st.composite
def slices(draw: st.DrawFn, ref: ObjectRef | None = None) -> EndpointSlice:
    family = draw(st.sampled_from((*FAMILIES, Family.IPV4)))
    chosen = draw(st.lists(st.sampled_from(PODS[family]), min_size=1, max_size=3, unique=True))
    return EndpointSlice(
        ref=ref or draw(st.sampled_from(SLICES)),
        service=draw(st.sampled_from((SERVICES[0], SERVICES[0], SERVICES[1]))),
        ports=tuple(
            SlicePort(name, protocol, 8000 + len(name))
            for name in draw(st.sampled_from((("http", "dns"), ("http", "dns"), ("http",), ())))
            for protocol in (L4Protocol.TCP, L4Protocol.UDP)
        ),
        endpoints=tuple(
            Endpoint(a, draw(st.sampled_from(CONDITIONS)), draw(st.sampled_from((NODE, "other")))) for a in chosen
        ),
    )


nodes = st.builds(
    lambda four, six: Node(
        ObjectRef("Node", "", NODE),
        internal_addresses=(ip_address(f"192.0.2.{four}").packed, *([ADDRESSES[Family.IPV6]] if six else [])),
    ),
    st.integers(1, 2),
    st.booleans(),
)
deletions = st.sampled_from([*SERVICES, *SLICES]).map(Deleted)
some_slice = slices().map(Upserted)
event = st.one_of(services().map(Upserted), some_slice, some_slice, some_slice, deletions, nodes.map(Upserted))


@st.composite
def histories(draw: st.DrawFn) -> list[Upserted | Deleted]:
    """Few objects and few values, so that they meet: everything exists once, then things happen."""
    first = [*(draw(services(ref)) for ref in SERVICES), *(draw(slices(ref)) for ref in SLICES)]
    return [*map(Upserted, first), *draw(st.lists(event, max_size=12))]


START = Node(ObjectRef("Node", "", NODE), internal_addresses=tuple(ADDRESSES.values()))


def fresh() -> ProxyWorld:
    world = ProxyWorld(families=FAMILIES)
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


def check(world: ProxyWorld, history: Sequence[Upserted | Deleted]) -> None:
    """Virtual services and destinations are those that the rules ask for."""
    expected = expectation(list(final(history).values()))
    assert set(world.table(VirtualService)) == set(expected)
    found: dict[Any, set[tuple[bytes, int]]] = {key: set() for key in expected}
    for key in world.table(Destination):
        found[key.service].add((key.address, key.port))
    assert found == expected
    assert set(world.table(HealthPort).values()) == health_ports(list(final(history).values()))


def health_ports(objects: list[ClusterObject]) -> set[HealthPort]:
    """The oldest Service with a port has it; its pods on the node are counted in the family with more of them."""
    found: dict[int, HealthPort] = {}
    services = sorted((o for o in objects if isinstance(o, Service)), key=lambda s: (s.created, s.ref.name))
    for service in (s for s in services if s.proxied and s.health_check_node_port):
        addresses = {
            e.address
            for o in objects
            if isinstance(o, EndpointSlice) and o.service == service.ref
            for e in o.endpoints
            if e.node == NODE and e.conditions & READY and not e.conditions & TERMINATING
        }
        count = max(sum(family_of(a) is f for a in addresses) for f in FAMILIES)
        key = HealthPortKey(service.health_check_node_port)
        found.setdefault(key.port, HealthPort(key, service.ref.namespace, service.ref.name, count))
    return set(found.values())


@settings(max_examples=120)
@given(histories(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_road_ends_in_what_the_rules_say(history: list[Upserted | Deleted], flush: int, dice: Any) -> None:
    world = fresh()
    for number, event in enumerate(history):
        world.put(event)
        if number % flush == 0:
            world.sync()
            check(world, history[: number + 1])
    world.sync()
    check(world, history)
    scratch = fresh()
    objects = list(final(history).values())
    dice.shuffle(objects)
    for obj in objects:
        scratch.put(Upserted(obj))
    scratch.sync()
    assert kernel(world) == kernel(scratch)
    assert set(world.journal.standing) == set(scratch.journal.standing)
    assert world.sync() == 0


def expectation(objects: list[ClusterObject]) -> dict[Any, set[tuple[bytes, int]]]:
    """Virtual services with their destinations, the slow and plain way."""
    from kuberouter.model.ipvs import VirtualServiceKey

    node = next(o for o in objects if isinstance(o, Node))
    own = {family_of(a): a for a in reversed(node.internal_addresses)}
    rows: dict[Any, set[tuple[bytes, int]]] = {}
    taken: set[tuple[bytes, L4Protocol, int]] = set()
    by_age = sorted((o for o in objects if isinstance(o, Service) and o.served), key=lambda s: (s.created, s.ref.name))
    for service in by_age:
        internal = service.internal_local and not service.options.local
        places = [(vip, p.port, vip, internal, p) for vip in service.cluster_ips for p in service.ports]
        families = {family_of(vip) for vip in service.cluster_ips}
        external = service.external_local or service.options.local
        for port in service.ports:
            if port.node_port and (b"", port.protocol, port.node_port) not in taken:
                places += [(own[f], port.node_port, b"", external, port) for f in families if f in own]
        for address, number, claimed, local, port in places:
            family = family_of(address)
            if family not in own or (claimed, port.protocol, number) in taken:
                continue
            rows[VirtualServiceKey(family, port.protocol, address, number)] = answering(
                objects, service, port, family, local
            )
        for port in service.ports:
            taken |= {(vip, port.protocol, port.port) for vip in service.cluster_ips}
            if port.node_port:
                taken.add((b"", port.protocol, port.node_port))
    return rows


def answering(
    objects: list[ClusterObject], service: Service, port: ServicePort, family: Family, local: bool
) -> set[tuple[bytes, int]]:
    """Who answers at a port: ready ones, or else those that still serve."""
    found: list[tuple[int, bytes, int]] = []
    for each in objects:
        if isinstance(each, EndpointSlice) and each.service == service.ref:
            numbers = [p.port for p in each.ports if (p.name, p.protocol) == (port.name, port.protocol)]
            found += [
                (e.conditions, e.address, number)
                for number in numbers
                for e in each.endpoints
                if family_of(e.address) is family and (not local or e.node == NODE)
            ]
    ready = {(address, number) for conditions, address, number in found if conditions & READY}
    leaving = SERVING | TERMINATING
    return ready or {(address, number) for conditions, address, number in found if conditions & leaving == leaving}
