"""How big a pod's packets may be, so that none of them has to be fragmented or dropped on its way.

A packet between nodes of different subnets is carried inside another one: 20 bytes more for IPv4 (RFC 2003), 48 for
IPv6 (RFC 2473, with the 8 bytes of the encapsulation limit that Linux adds). Whether a pod will ever talk through a
tunnel is not known when it gets its MTU, so the overhead is taken off wherever the overlay is on. The Go kube-router
hands out the uplink's MTU as it is, and its packets of full size need fragments in tunnels.
"""

from __future__ import annotations

from kuberouter.model.core import Family
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

OVERHEAD = {Family.IPV4: 20, Family.IPV6: 48}
"""Bytes that a tunnel of a family adds."""
SMALLEST = {Family.IPV4: 576, Family.IPV6: 1280}
"""What every link must carry (RFC 791 for hosts, RFC 8200)."""


def tunnel_mtu(node: NodeFacts, settings: RouterSettings, family: Family) -> int:
    """MTU of a tunnel whose outer packets are of a family; 0 leaves it to the kernel."""
    if not node.mtu or not settings.auto_mtu:
        return 0
    return max(node.mtu - OVERHEAD[family], SMALLEST[Family.IPV4])


def pod_mtu(node: NodeFacts, settings: RouterSettings) -> int:
    """MTU of the pods' bridge and of pods; 0 leaves it alone."""
    if not node.mtu or not settings.auto_mtu:
        return 0
    if not settings.overlay:
        return node.mtu
    families = node.families
    return max(node.mtu - max(OVERHEAD[f] for f in families), max(SMALLEST[f] for f in families))
