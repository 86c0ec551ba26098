"""Services to IPVS: any road to a state of the cluster ends in the same rows, and those are what the rules say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.cluster.frontends import FrontendKind
from kuberouter.compilers.names import RESTRICTED_SET, SERVICE_ADDRESS_SET, SERVICE_PORT_SET
from kuberouter.model.cluster import (
    ClusterObject,
    Endpoint,
    EndpointCondition,
    EndpointSlice,
    Hints,
    Interface,
    InterfaceAddress,
    MarkedPlace,
    MarkUse,
    Node,
    Service,
    ServiceOptions,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Prefix, Reason, family_of
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.host import HealthPort, HealthPortKey
from kuberouter.model.ipvs import Destination, VirtualService, VirtualServiceKey, marked_service
from kuberouter.model.netfilter import Member
from kuberouter.model.network import Address
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.examples import examples
from tests.support.world import NODE, ROWS, ProxyWorld

FAMILIES = (Family.IPV4, Family.IPV6)
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
READY, SERVING, TERMINATING = (c.value for c in EndpointCondition)
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
LOOPBACK = [ip_address(a).packed for a in ("127.0.0.1", "::1", "fe80::1")]
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


class Want(NamedTuple):
    """A Service wants to be reached at an address (empty: the node's) with a port."""

    service: Service
    kind: FrontendKind
    address: bytes
    port: ServicePort
    number: int


class Expectation:
    """Virtual services with their destinations and what goes with them, the slow and plain way."""

    def __init__(self, objects: list[ClusterObject], way: ProxySettings, mark_of: Callable[[MarkedPlace], int]) -> None:
        self.objects = objects
        self.node = next(o for o in objects if isinstance(o, Node) and o.ref.name == NODE)
        self.own = {family_of(a): a for a in reversed(self.node.internal_addresses)}
        links = [a.address for o in objects if isinstance(o, Interface) for a in o.addresses]
        self.on_node = [*self.node.internal_addresses, *(a for a in links if family_of(a) in self.own)]
        others = [o for o in objects if isinstance(o, Node) and o.ref.name != NODE]
        theirs = {a for o in others for a in (*o.internal_addresses, *o.external_addresses)}
        self.elsewhere = theirs.difference(self.on_node)
        self.way = way
        self.mark_of = mark_of
        self.services: dict[VirtualServiceKey, set[tuple[bytes, int]]] = {}
        self.brought: set[bytes] = set()
        self.restricted: set[tuple[bytes, int, int]] = set()
        self.asked: set[tuple[bytes, int, int]] = set()
        """Where load balancers may ask for health at their own address."""
        self.refused: list[ObjectRef] = []
        self._fill()

    def _fill(self) -> None:
        wants = [want for o in self.objects if isinstance(o, Service) and o.served for want in self._wants(o)]
        given = FrontendKind.NODE_PORT
        wants.sort(key=lambda w: (w.kind > given, w.service.created, w.service.ref.name, w.kind))
        holders: dict[tuple[bytes, L4Protocol, int], Service] = {}
        for want in wants:
            holder = holders.setdefault((want.address, want.port.protocol, want.number), want.service)
            in_the_way = holders.get((b"", want.port.protocol, want.number))
            if want.kind > given and in_the_way is not None and want.address in self._node_ports(in_the_way):
                holder = in_the_way
            if holder is want.service:
                self._serve(want)

    def _wants(self, service: Service) -> Iterator[Want]:
        for kind, addresses in (
            (FrontendKind.CLUSTER, service.cluster_ips),
            (FrontendKind.LOAD_BALANCER, () if service.options.skip_lb_ips else service.load_balancer_ips),
            (FrontendKind.EXTERNAL, service.external_ips),
        ):
            for address in addresses:
                if kind is not FrontendKind.CLUSTER and not self._allowed(kind, address):
                    self.refused.append(service.ref)
                    continue
                yield from (Want(service, kind, address, port, port.port) for port in service.ports)
        for port in service.ports:
            if port.node_port:
                yield Want(service, FrontendKind.NODE_PORT, b"", port, port.node_port)

    def _allowed(self, kind: FrontendKind, address: bytes) -> bool:
        if not self.way.addresses.strict:
            return True
        rules = self.way.addresses
        ranges = rules.external_ranges if kind is FrontendKind.EXTERNAL else rules.load_balancer_ranges
        return _in(address, ranges) and not _in(address, rules.cluster_ranges)

    def _node_ports(self, service: Service) -> list[bytes]:
        families = {family_of(a) for a in service.cluster_ips}
        if self.way.node_ports_everywhere:
            return [a for a in self.on_node if family_of(a) in families and a not in LOOPBACK]
        return [self.own[f] for f in families if f in self.own]

    def _serve(self, want: Want) -> None:
        service, port = want.service, want.port
        addresses = [want.address] if want.address else self._node_ports(service)
        for address in addresses:
            family = family_of(address)
            key = VirtualServiceKey(family, port.protocol, address, want.number)
            if family not in self.own or key in self.services:
                continue
            if want.kind > FrontendKind.NODE_PORT and address in self.elsewhere:
                continue
            if want.kind is FrontendKind.CLUSTER:
                local = service.internal_local and not service.options.local
            else:
                local = service.external_local or service.options.local
            self.services[key] = self._answering(service, port, family, local)
            if want.kind is FrontendKind.CLUSTER:
                self.brought.add(address)
                continue
            if want.kind is FrontendKind.LOAD_BALANCER and service.health_check_node_port:
                self.asked.add((address, L4Protocol.TCP, service.health_check_node_port))
            if want.kind is not FrontendKind.NODE_PORT:
                if address not in self.on_node:
                    self.brought.add(address)
                if service.source_ranges is not None and address in service.load_balancer_ips:
                    allowed = [r for r in service.source_ranges if r.family is family]
                    if all(r.length for r in allowed):
                        self.restricted.add((address, port.protocol, want.number))
            if local:
                place = MarkedPlace(want.address or bytes(4), port.protocol, want.number, MarkUse.INSIDE)
                marked = marked_service(family, self.mark_of(place))
                self.services[marked] = self._answering(service, port, family, False)

    def _answering(self, service: Service, port: ServicePort, family: Family, local: bool) -> set[tuple[bytes, int]]:
        """Who answers at a port: ready ones, those meant for here among them, or else those that leave and serve."""
        found: list[tuple[Endpoint, int]] = []
        for each in self.objects:
            if isinstance(each, EndpointSlice) and each.service == service.ref:
                numbers = [p.port for p in each.ports if (p.name, p.protocol) == (port.name, port.protocol)]
                found += [
                    (e, number)
                    for number in numbers
                    for e in each.endpoints
                    if family_of(e.address) is family and (not local or e.node == NODE)
                ]
        ready = [(e, number) for e, number in found if e.conditions & READY]
        chosen = ready
        if service.publish_not_ready:
            chosen = found
        elif not ready:
            leaving = SERVING | TERMINATING
            chosen = [(e, number) for e, number in found if e.conditions & leaving == leaving]
        if ready and not local:
            for here, of in ((NODE, lambda h: h.nodes), (self.node.zone, lambda h: h.zones)):
                hints = [of(e.hints) if e.hints else () for e, _ in ready]
                if all(hints) and any(here in each for each in hints):
                    chosen = [(e, n) for e, n in chosen if e.hints is None or here in of(e.hints)]
                    break
        return {(e.address, number) for e, number in chosen}


def _in(address: bytes, ranges: Iterable[Prefix]) -> bool:
    return any(
        ip_address(address) in ip_network((r.address, r.length)) for r in ranges if len(r.address) == len(address)
    )
