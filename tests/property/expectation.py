"""What the rules say of Services, the slow and plain way: virtual services, destinations, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from kuberouter.cluster.frontends import FrontendKind
from kuberouter.model.cluster import (
    ClusterObject,
    Endpoint,
    EndpointCondition,
    EndpointSlice,
    Interface,
    MarkedPlace,
    MarkUse,
    Node,
    Service,
    ServicePort,
)
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Prefix, family_of
from kuberouter.model.host import HealthPort, HealthPortKey
from kuberouter.model.ipvs import VirtualServiceKey, marked_service
from kuberouter.model.settings import ProxySettings
from tests.support.world import NODE

FAMILIES = (Family.IPV4, Family.IPV6)
READY, SERVING, TERMINATING = (c.value for c in EndpointCondition)
LOOPBACK = [ip_address(a).packed for a in ("127.0.0.1", "::1", "fe80::1")]


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
