"""Which endpoints answer at a frontend: ready ones first, terminating ones that still serve when no other is left."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from kuberouter.cluster.frontends import Group
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.services.frontends import Frontend, frontends
from kuberouter.model.cluster import Endpoint, EndpointCondition, EndpointSlice, Service
from kuberouter.model.core import Fragment, ObjectRef, Owner, Rank, family_of
from kuberouter.model.ipvs import Destination, DestinationKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings

_READY = EndpointCondition.READY.value
_SERVING = EndpointCondition.SERVING.value


def compile_destinations(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """The destinations that one slice (`key.part`, in the Service's namespace) brings to its Service."""
    found = view.slice(ObjectRef("EndpointSlice", key.subject.namespace, key.part))
    service = view.service(key.subject)
    if found is None or service is None or found.service != key.subject or not found.endpoints:
        return Fragment()
    family = family_of(found.endpoints[0].address)
    rows = tuple(
        row
        for frontend in frontends(service, view, node, settings)
        if frontend.key.family is family
        for row in _destinations(frontend, service, found, view, node)
    )
    return Fragment(rows, rank=Rank(since=service.created))


def _destinations(
    frontend: Frontend, service: Service, found: EndpointSlice, view: ClusterView, node: NodeFacts
) -> Iterator[Destination]:
    port = frontend.port
    number = next((p.port for p in found.ports if p.name == port.name and p.protocol is port.protocol), 0)
    if not number:
        return
    group = Group(service.ref, frontend.key.family, port.name, port.protocol)
    for endpoint in in_order(eligible(frontend, service, found, group, view, node), node.name):
        yield Destination(DestinationKey(frontend.key, endpoint.address, number))


def eligible(
    frontend: Frontend, service: Service, found: EndpointSlice, group: Group, view: ClusterView, node: NodeFacts
) -> Iterator[Endpoint]:
    """The endpoints of a slice that may answer.

    Readiness is asked of the whole Service: a terminating endpoint counts only while nobody at all is ready among
    those that may answer here (KEP-1669).
    """
    here = frontend.local_only
    ready = view.frontends.any_ready_here(group) if here else view.frontends.any_ready(group)
    wanted = _READY if ready else _SERVING
    for endpoint in found.endpoints:
        if here and endpoint.node != node.name:
            continue
        if endpoint.conditions & wanted or service.publish_not_ready:
            yield endpoint


def in_order(endpoints: Iterator[Endpoint], seed: str) -> list[Endpoint]:
    """Endpoints in an order that differs from node to node and is the same every time.

    Every node's round robin begins at its first destination; were that the same one everywhere, it would get the first
    connection of every node.
    """
    start = crc32(seed.encode())
    return sorted(endpoints, key=lambda e: (crc32(e.address, start), e.address))
