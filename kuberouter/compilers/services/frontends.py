"""Which address, protocol and port a Service is served at on this node, and why not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from kuberouter.cluster.frontends import Claim
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import DUMMY_LINK, SERVICE_ADDRESS_SET, SERVICE_PORT_SET, set_name
from kuberouter.model.cluster import Service, ServicePort
from kuberouter.model.core import Fragment, ObjectRef, Owner, Problem, Rank, Reason, Row, Value, family_of
from kuberouter.model.ipvs import PERSISTENT, VirtualService, VirtualServiceKey
from kuberouter.model.netfilter import Member, MemberKey
from kuberouter.model.network import Address, AddressKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings


class Frontend(Value, frozen=True, gc=False):
    """One place at which a port of a Service is served on this node."""

    port: ServicePort
    key: VirtualServiceKey
    local_only: bool
    """Only endpoints of this node may answer."""
    virtual: bool
    """The address is the Service's own and has to be brought to the node; a node port's is there already."""


def frontends(service: Service, view: ClusterView, node: NodeFacts) -> Iterator[Frontend]:
    """Where a Service is served here. Claims that another Service has won are left out.

    Node ports are served at the node's best address of each family in which the Service has a cluster IP.
    """
    if not service.proxied:
        return
    families = node.families
    for port in service.ports:
        for address in service.cluster_ips:
            family = family_of(address)
            if family in families and view.frontends.winner(Claim(address, port.protocol, port.port)) == service.ref:
                key = VirtualServiceKey(family, port.protocol, address, port.port)
                yield Frontend(port, key, service.internal_local, True)
        if not port.node_port or view.frontends.winner(Claim(b"", port.protocol, port.node_port)) != service.ref:
            continue
        for family in dict.fromkeys(family_of(a) for a in service.cluster_ips):
            own = node.address(family) if family in families else None
            if own is not None:
                key = VirtualServiceKey(family, port.protocol, own, port.node_port)
                yield Frontend(port, key, service.external_local or service.options.local, False)


def _lost(service: Service, view: ClusterView) -> Iterator[Problem]:
    """What the Service asks for and another has."""
    for port in service.ports if service.proxied else ():
        wanted = [("spec.clusterIPs", a, port.port) for a in service.cluster_ips]
        if port.node_port:
            wanted.append(("spec.ports.nodePort", b"", port.node_port))
        for field, address, number in wanted:
            winner = view.frontends.winner(Claim(address, port.protocol, number))
            if winner is not None and winner != service.ref:
                yield _conflict(service.ref, field, address, port, number, winner)


def _conflict(ref: ObjectRef, field: str, address: bytes, port: ServicePort, number: int, winner: ObjectRef) -> Problem:
    where = f"{ipaddress.ip_address(address)} port {number}" if address else f"node port {number}"
    text = f"{where}/{port.protocol.name} belongs to the older {winner}; this Service is not served there"
    return Problem(ref, field, Reason.CONFLICT, text)


def compile_service(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """Virtual services, service addresses and guard entries of one Service.

    A Service without endpoints keeps its virtual services: IPVS then refuses at once, and no packet escapes to where
    the address might otherwise be routed.
    """
    del settings
    service = view.service(key.subject)
    if service is None:
        return Fragment()
    flags = PERSISTENT if service.affinity_seconds else 0
    rows: dict[Row, None] = {}
    for frontend in frontends(service, view, node):
        place = frontend.key
        rows[VirtualService(place, service.options.scheduler, flags, service.affinity_seconds)] = None
        bits = len(place.address) * 8
        if frontend.virtual:
            source = node.address(place.family) or b""
            rows[Address(AddressKey(DUMMY_LINK, place.address, bits), source)] = None
        rows[Member(MemberKey(set_name(SERVICE_ADDRESS_SET, place.family), place.address, bits))] = None
        port_set = set_name(SERVICE_PORT_SET, place.family)
        rows[Member(MemberKey(port_set, place.address, bits, int(place.protocol), place.port))] = None
    return Fragment(tuple(rows), tuple(_lost(service, view)), Rank(since=service.created))
