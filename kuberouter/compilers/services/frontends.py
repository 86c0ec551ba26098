"""Which address, protocol and port a Service is served at on this node, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from kuberouter.cluster.allocations import ANYWHERE
from kuberouter.cluster.frontends import Claim, FrontendKind, addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.addresses import FIELDS, holder, local_only, refusal
from kuberouter.compilers.names import DUMMY_LINK, SERVICE_ADDRESS_SET, SERVICE_PORT_SET, set_name
from kuberouter.compilers.services.dsr import direct_mark, direct_problems, direct_rows
from kuberouter.compilers.services.inside import inside
from kuberouter.compilers.services.sources import source_filter
from kuberouter.model.cluster import MarkedPlace, MarkUse, Service, ServicePort
from kuberouter.model.core import (
    LINK_LOCAL,
    Family,
    Fragment,
    L4Protocol,
    ObjectRef,
    Owner,
    Problem,
    Rank,
    Reason,
    Row,
    Value,
    family_of,
)
from kuberouter.model.ipvs import PERSISTENT, VirtualService, VirtualServiceKey, marked_service
from kuberouter.model.netfilter import Member, MemberKey
from kuberouter.model.network import Address, AddressKey, LocalRoute, LocalRouteKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings

# What every Service asks for is looked up once, not with each of them: a member of an enum is found slowly.
_CLUSTER, _NODE_PORT, _LOAD_BALANCER = FrontendKind.CLUSTER, FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER
_LOOPBACK = {Family.IPV4: b"\x7f", Family.IPV6: bytes(15) + b"\x01"}


class Frontend(Value, frozen=True, gc=False):
    """One place at which a port of a Service is served on this node."""

    port: ServicePort
    key: VirtualServiceKey
    kind: FrontendKind
    local_only: bool
    """Only endpoints of this node may answer."""
    virtual: bool
    """The address is the Service's own and has to be brought to the node; a node port's is there already."""
    mark: int = 0
    """Endpoints answer directly, and packets to the place carry this mark."""
    inside: int = 0
    """The mark by which clients of the cluster find endpoints of all nodes here; 0 where they find the same as others.

    A frontend with `key.mark` is what such a mark leads to. It comes without an address.
    """

    @property
    def service(self) -> VirtualServiceKey:
        """The virtual service that takes the packets."""
        return marked_service(self.key.family, self.mark) if self.mark else self.key


class _Known(Value, frozen=True, gc=False):
    """Where a Service is served, and of what that follows beside the state of the cluster."""

    service: Service
    node: NodeFacts
    settings: ProxySettings
    found: tuple[Frontend, ...]


def frontends(service: Service, view: ClusterView, node: NodeFacts, settings: ProxySettings) -> Sequence[Frontend]:
    """Where a Service is served here. What another Service has won is left out, addresses that nobody may have, and
    those of other nodes.

    The external traffic policy is one for clients outside. Node ports are served in the families in which the Service
    has a cluster IP.
    """
    known = view.worked_out.get(service.ref)
    if (
        known is not None
        and isinstance(known, _Known)
        and known.service is service
        and known.node is node
        and known.settings is settings
    ):
        return known.found
    found = _frontends(service, view, node, settings) if service.served else ()
    view.worked_out[service.ref] = _Known(service, node, settings, found)
    return found


def _frontends(service: Service, view: ClusterView, node: NodeFacts, settings: ProxySettings) -> tuple[Frontend, ...]:
    found: dict[VirtualServiceKey, Frontend] = {}
    families = node.families
    rules = settings.addresses
    internal_local, external_local = local_only(service, _CLUSTER), local_only(service, FrontendKind.EXTERNAL)
    asked = addresses(service)
    for port in service.ports:
        if port.node_port and holder(view, Claim(b"", port.protocol, port.node_port), rules) == service.ref:
            place = MarkedPlace(ANYWHERE, port.protocol, port.node_port, MarkUse.INSIDE)
            mark = view.marks.mark(place) if external_local else 0
            for address in node_port_addresses(service, node, settings):
                key = VirtualServiceKey(family_of(address), port.protocol, address, port.node_port)
                found[key] = Frontend(port, key, _NODE_PORT, external_local, False, inside=mark)
                _add_marked(found, port, key.family, _NODE_PORT, mark)
        for kind, address in asked:
            family = family_of(address)
            key = VirtualServiceKey(family, port.protocol, address, port.port)
            if family not in families or key in found or not _may_have(kind, address, view, node, settings):
                continue
            if _winner(view, kind, key, node, settings) != service.ref:
                continue
            virtual = not _on_node(address, node)
            if kind is _CLUSTER:
                found[key] = Frontend(port, key, kind, internal_local, virtual)
                continue
            mark = 0
            if external_local:
                mark = view.marks.mark(MarkedPlace(address, port.protocol, port.port, MarkUse.INSIDE))
            direct = direct_mark(service, kind, key, view, node=node, settings=settings)
            found[key] = Frontend(port, key, kind, external_local, virtual, direct, mark)
            _add_marked(found, port, family, kind, mark)
    return tuple(found.values())


def _add_marked(
    found: dict[VirtualServiceKey, Frontend], port: ServicePort, family: Family, kind: FrontendKind, mark: int
) -> None:
    """What a mark leads to; a node port has one mark for all its addresses."""
    if mark:
        key = marked_service(family, mark)
        found.setdefault(key, Frontend(port, key, kind, False, False))


def _may_have(kind: FrontendKind, address: bytes, view: ClusterView, node: NodeFacts, settings: ProxySettings) -> bool:
    """Whether a Service may be served here at an address of this kind, if nobody else has it."""
    if kind is _CLUSTER:
        return True
    return not refusal(kind, address, settings.addresses) and not _of_another_node(address, view, node)


def node_port_addresses(service: Service, node: NodeFacts, settings: ProxySettings) -> Iterator[bytes]:
    """The node's addresses at which node ports of a Service are served: its best one of each family, or all.

    Loopback addresses are no place for them: a pod could not answer there. Nor are IPv6 link-local ones, which mean
    something on a link only.
    """
    families = [f for f in dict.fromkeys(map(family_of, service.cluster_ips)) if f in node.families]
    if settings.node_ports_everywhere:
        for address in dict.fromkeys((*node.addresses, *node.local_addresses)):
            if family_of(address) in families and not _without_node_ports(address):
                yield address
        return
    for family in families:
        best = node.address(family)
        if best is not None:
            yield best


def _without_node_ports(address: bytes) -> bool:
    return address.startswith(_LOOPBACK[family_of(address)]) or LINK_LOCAL[Family.IPV6].covers(address)


def _on_node(address: bytes, node: NodeFacts) -> bool:
    return address in node.addresses or address in node.local_addresses


def _of_another_node(address: bytes, view: ClusterView, node: NodeFacts) -> bool:
    """Whether that node alone serves it. With its address this one would cut itself off from all that runs there."""
    return view.routes.has_node(address) and not _on_node(address, node)


def _winner(
    view: ClusterView, kind: FrontendKind, key: VirtualServiceKey, node: NodeFacts, settings: ProxySettings
) -> ObjectRef | None:
    """The Service that gets an address of its own with a port, or a node port that is in the way there."""
    if kind is not _CLUSTER and _on_node(key.address, node):
        ref = holder(view, Claim(b"", key.protocol, key.port), settings.addresses)
        other = view.service(ref) if ref is not None else None
        if other is not None and key.address in node_port_addresses(other, node, settings):
            return ref
    return holder(view, Claim(key.address, key.protocol, key.port), settings.addresses)


def _problems(
    service: Service, found: Sequence[Frontend], view: ClusterView, node: NodeFacts, settings: ProxySettings
) -> list[Problem]:
    """What the Service asks for and does not get: addresses that nobody may have, and those that another has."""
    problems: list[Problem] = []
    if not service.served or _has_all(service, found):
        return problems
    allowed: list[tuple[FrontendKind, bytes]] = []
    for kind, address in addresses(service):
        text = refusal(kind, address, settings.addresses)
        if text:
            problems.append(Problem(service.ref, FIELDS[kind], Reason.FORBIDDEN, text))
        else:
            allowed.append((kind, address))
    for port in service.ports:
        for kind, address in allowed:
            key = VirtualServiceKey(family_of(address), port.protocol, address, port.port)
            winner = _winner(view, kind, key, node, settings)
            if winner != service.ref:
                where = f"{ip_address(address)} port {port.port}"
                problems.append(_conflict(service.ref, kind, where, port, winner))
        if port.node_port:
            winner = holder(view, Claim(b"", port.protocol, port.node_port), settings.addresses)
            if winner != service.ref:
                where = f"node port {port.node_port}"
                problems.append(_conflict(service.ref, _NODE_PORT, where, port, winner))
    return problems


def _has_all(service: Service, found: Sequence[Frontend]) -> bool:
    """Whether a Service that asks for cluster IPs alone, as most do, is served at all of them."""
    if service.external_ips or service.load_balancer_ips:
        return False
    for port in service.ports:
        if port.node_port:
            return False
    return len(found) == len(service.ports) * len(service.cluster_ips)


def _without_mark(ref: ObjectRef, found: Iterable[Frontend]) -> Iterator[Problem]:
    """What it means that there is no mark left for clients of the cluster."""
    if any(each.local_only and each.kind is not FrontendKind.CLUSTER and not each.inside for each in found):
        text = "every firewall mark is taken; at some ports pods and nodes too reach endpoints of their own node only"
        yield Problem(ref, "spec.externalTrafficPolicy", Reason.CONFLICT, text)


def _conflict(ref: ObjectRef, kind: FrontendKind, where: str, port: ServicePort, winner: ObjectRef | None) -> Problem:
    text = f"{where}/{port.protocol.name} belongs to {winner}; this Service is not served there"
    return Problem(ref, FIELDS[kind], Reason.CONFLICT, text)


def service_address(address: bytes, node: NodeFacts, settings: ProxySettings) -> Address | LocalRoute:
    """What makes an address of a Service the node's own; the node's traffic to it carries the node's address."""
    source = node.address(family_of(address)) or b""
    if settings.local_routes:
        return LocalRoute(LocalRouteKey(address), source)
    return Address(AddressKey(DUMMY_LINK, address, len(address) * 8), source)


def _open(address: bytes, protocol: L4Protocol, port: int) -> Member:
    """What lets packets to an address and port past the guard."""
    name = set_name(SERVICE_PORT_SET, family_of(address))
    return Member(MemberKey(name, address, len(address) * 8, int(protocol), port))


def compile_service(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """Virtual services, service addresses and guard entries of one Service.

    A Service without endpoints keeps its virtual services: IPVS then refuses at once, and no packet escapes to where
    the address might otherwise be routed.
    """
    service = view.service(key.subject)
    if service is None:
        return Fragment()
    flags = service.options.sched_flags | (PERSISTENT if service.affinity_seconds else 0)
    rows: list[Row] = []
    found = frontends(service, view, node, settings)
    for frontend in found:
        place = frontend.key
        rows.append(VirtualService(frontend.service, service.options.scheduler, flags, service.affinity_seconds))
        if place.mark:
            continue
        bits = len(place.address) * 8
        if frontend.virtual:
            rows.append(service_address(place.address, node, settings))
            # An address of the node itself never comes before the guard, which refuses by this set.
            rows.append(Member(MemberKey(set_name(SERVICE_ADDRESS_SET, place.family), place.address, bits)))
        rows.append(_open(place.address, place.protocol, place.port))
        if frontend.kind is _CLUSTER:
            continue
        if frontend.kind is _LOAD_BALANCER and service.health_check_node_port:
            # Some clouds ask at the address of the load balancer and not at the node's (backend services of Google).
            rows.append(_open(place.address, L4Protocol.TCP, service.health_check_node_port))
        if frontend.kind > _NODE_PORT:
            rows += source_filter(service, place)
        if frontend.inside:
            rows += inside(place, frontend.kind, frontend.inside)
        if frontend.mark:
            rows += direct_rows(service, place, frontend.mark, node)
    if len(found) != 1 or found[0].kind is not _CLUSTER:
        # Ports of one address claim the address each.
        rows = list(dict.fromkeys(rows))
    problems = _problems(service, found, view, node, settings)
    if service.external_local or service.options.local:
        problems += _without_mark(service.ref, found)
    if service.options.dsr:
        problems += direct_problems(service, view, node=node, settings=settings)
    return Fragment(tuple(rows), tuple(problems), Rank(since=service.created))
