"""Which endpoints of a Service may answer on this node, and in which order they are tried.

The rules are kube-proxy's: ready ones first, and among those the ones that are meant for this node or its zone;
terminating ones that still serve only where nobody is ready; only this node's own where a policy says Local.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from zlib import crc32

from kuberouter.cluster.frontends import Group, Standing
from kuberouter.model.cluster import Endpoint, EndpointCondition, EndpointSlice
from kuberouter.model.node import NodeFacts

_READY = EndpointCondition.READY.value
_LEAVING = EndpointCondition.SERVING.value | EndpointCondition.TERMINATING.value


def port_number(found: EndpointSlice, group: Group) -> int:
    """The port at which the endpoints of a slice answer for a group; 0 if they do not."""
    return next((p.port for p in found.ports if p.name == group.port and p.protocol is group.protocol), 0)


def eligible(
    found: EndpointSlice, standing: Standing, node: NodeFacts, *, local_only: bool, publish_not_ready: bool = False
) -> Iterator[Endpoint]:
    """The endpoints of a slice that may answer here.

    Readiness is asked of the whole group (`standing`), so that a terminating endpoint counts only while nobody at all
    is ready among those that may answer (KEP-1669). Hints count only if every ready endpoint has some and one of them
    is for here (KEP-2433, KEP-3015); a Local policy goes before them. `publish_not_ready` takes everybody for ready.
    """
    some_ready = standing.ready_here if local_only else standing.ready
    by_node = not local_only and standing.node_hints
    by_zone = not local_only and not by_node and node.zone in standing.zones
    for endpoint in found.endpoints:
        if local_only and endpoint.node != node.name:
            continue
        if not publish_not_ready:
            if some_ready and not endpoint.conditions & _READY:
                continue
            if not some_ready and endpoint.conditions & _LEAVING != _LEAVING:
                continue
        if endpoint.hints is not None and some_ready:
            if by_node and node.name not in endpoint.hints.nodes:
                continue
            if by_zone and node.zone not in endpoint.hints.zones:
                continue
        yield endpoint


def in_order(endpoints: Iterable[Endpoint], seed: str) -> list[Endpoint]:
    """Endpoints in an order that differs from node to node and is the same every time.

    Every node's round robin begins at its first destination; were that the same one everywhere, it would get the first
    connection of every node.
    """
    start = crc32(seed.encode())
    return sorted(endpoints, key=lambda e: (crc32(e.address, start), e.address))
