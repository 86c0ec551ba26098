"""The route controller at size: a real gobgpd 3 and a real kernel in namespaces, and other nodes that are played."""

from __future__ import annotations

from tests.bench import routing_bgp, routing_kernel, routing_mesh, routing_nodes
from tests.bench.routing_kernel import Figure


def figures() -> list[Figure]:
    """Every figure of the route controller."""
    dump = routing_bgp.learned_dump()
    return [
        *routing_bgp.measure(),
        *routing_kernel.measure(dump),
        *routing_nodes.measure(dump),
        *routing_mesh.measure(),
    ]
