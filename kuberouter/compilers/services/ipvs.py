"""The destinations of the virtual services: one compiler per slice, so that one endpoint costs one slice."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from kuberouter.cluster.frontends import Group
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.services.dsr import endpoint_problems, forwarding
from kuberouter.compilers.services.endpoints import eligible, in_order, port_number
from kuberouter.compilers.services.frontends import Frontend, frontends
from kuberouter.compilers.services.nat import hairpin_members
from kuberouter.model.cluster import EndpointSlice, Service
from kuberouter.model.core import Fragment, ObjectRef, Owner, Rank, Row, family_of
from kuberouter.model.ipvs import Destination, DestinationKey, VirtualServiceKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings


def compile_destinations(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """The destinations that one slice (`key.part`, in the Service's namespace) brings to its Service."""
    subject = key.subject
    found = view.slice(ObjectRef("EndpointSlice", subject.namespace, key.part))
    service = view.service(subject)
    if found is None or service is None or found.service != subject or not found.endpoints:
        return Fragment()
    family = family_of(found.endpoints[0].address)
    rows: list[Destination] = []
    direct: dict[VirtualServiceKey, int] = {}
    for frontend in frontends(service, view, node, settings):
        if frontend.key.family is family:
            rows += _destinations(frontend, service, found, view, node)
            if frontend.mark:
                direct[frontend.service] = frontend.port.port
    problems = tuple(endpoint_problems(service, direct, rows)) if direct else ()
    claimed: tuple[Row, ...] = tuple(rows)
    if settings.hairpin or service.options.hairpin:
        claimed += tuple(hairpin_members(rows, found, node))
    return Fragment(claimed, problems, Rank(0, service.created))


def _destinations(
    frontend: Frontend, service: Service, found: EndpointSlice, view: ClusterView, node: NodeFacts
) -> Iterable[Destination]:
    port = frontend.port
    group = Group(service.ref, frontend.key.family, port.name, port.protocol)
    number = port_number(found, group)
    if not number:
        return ()
    standing = view.frontends.standing(group)
    chosen = eligible(
        found, standing, node, local_only=frontend.local_only, publish_not_ready=service.publish_not_ready
    )
    place, mark = frontend.service, frontend.mark
    ordered = in_order(chosen, f"{node.name} {found.ref.name}")
    if not mark:
        # What is asked of every endpoint of the cluster is worth asking only where the answer may differ.
        return map(Destination, map(DestinationKey, repeat(place), ordered, repeat(number)))
    return [Destination(DestinationKey(place, a, number), forward=forwarding(mark, a, view)) for a in ordered]
