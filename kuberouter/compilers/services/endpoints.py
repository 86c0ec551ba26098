"""Which endpoints of a Service may answer on this node, and in which order they are tried.

The rules are kube-proxy's: ready ones first, and among those the ones that are meant for this node or its zone;
terminating ones that still serve only where nobody is ready; only this node's own where a policy says Local.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from zlib import crc32

from kuberouter.cluster.frontends import Group, Standing
from kuberouter.model.cluster import Endpoint, EndpointCondition, EndpointSlice
from kuberouter.model.node import NodeFacts

_READY = EndpointCondition.READY.value
_ADDRESS = attrgetter("address")
_LEAVING = EndpointCondition.SERVING.value | EndpointCondition.TERMINATING.value


def port_number(found: EndpointSlice, group: Group) -> int:
    """The port at which the endpoints of a slice answer for a group; 0 if they do not."""
    for port in found.ports:
        if port.name == group.port and port.protocol is group.protocol:
            return port.port
    return 0


def eligible(
    found: EndpointSlice, standing: Standing, node: NodeFacts, *, local_only: bool, publish_not_ready: bool = False
) -> Sequence[Endpoint]:
    """The endpoints of a slice that may answer here.

    Readiness is asked of the whole group (`standing`), so that a terminating endpoint counts only while nobody at all
    is ready among those that may answer (KEP-1669). Hints count only if every ready endpoint has some and one of them
    is for here (KEP-2433, KEP-3015); a Local policy goes before them. `publish_not_ready` takes everybody for ready.
    """
    some_ready = standing.ready_here if local_only else standing.ready
    chosen: Sequence[Endpoint] = found.endpoints
    if local_only:
        chosen = [e for e in chosen if e.node == node.name]
    if not publish_not_ready:
        asked = _READY if some_ready else _LEAVING
        chosen = [e for e in chosen if e.conditions & asked == asked]
    if local_only or not some_ready:
        return chosen
    if standing.node_hints:
        return [e for e in chosen if e.hints is None or node.name in e.hints.nodes]
    if node.zone in standing.zones:
        return [e for e in chosen if e.hints is None or node.zone in e.hints.zones]
    return chosen


def in_order(endpoints: Iterable[Endpoint], seed: str) -> list[bytes]:
    """The addresses of endpoints in an order that differs from seed to seed and is the same every time.

    Every node's round robin begins at its first destination; were that the same one everywhere, it would get the first
    connection of every node.
    """
    found = sorted(map(_ADDRESS, endpoints))
    if len(found) < 2:
        return found
    start = crc32(seed.encode()) % len(found)
    return found[start:] + found[:start]
