"""How big packets may be, so that none of them has to be fragmented or dropped on its way: the one place that plans it.

A packet between nodes of different subnets is carried inside another one, and one that a client sends to an endpoint
with direct return inside yet another. Whether a pod will ever talk through a tunnel is not known when it gets its MTU,
so a tunnel's overhead is taken off wherever the overlay is on. Direct return costs the pods nothing: only what clients
send is bigger, so only the segment size that is announced to them is lowered.

The Go kube-router hands out the uplink's MTU as it is, and its packets of full size need fragments in tunnels.
"""

from __future__ import annotations

from kuberouter.model.core import Family
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

HEADER = {Family.IPV4: 20, Family.IPV6: 40}
"""Bytes of an IP header without options (RFC 791, RFC 8200)."""
LIMIT = {Family.IPV4: 0, Family.IPV6: 8}
"""Bytes of the encapsulation limit that Linux adds to IPv6 tunnels (RFC 2473)."""
UDP, GUE, TCP = 8, 4, 20
"""Bytes of the headers of UDP, of GUE without extensions (draft-ietf-intarea-gue), and of TCP without options."""
SMALLEST = {Family.IPV4: 576, Family.IPV6: 1280}
"""What every link must carry (RFC 791 for hosts, RFC 8200); below that Linux takes IPv6 off a link."""


def tunnel_overhead(family: Family, encap: str) -> int:
    """Bytes that a tunnel adds whose outer packets are of a family."""
    return HEADER[family] + LIMIT[family] + (UDP + GUE if encap == "fou" else 0)


def tunnel_mtu(node: NodeFacts, settings: RouterSettings, family: Family) -> int:
    """MTU of a tunnel whose outer packets are of a family; 0 leaves it to the kernel."""
    if not node.mtu or not settings.auto_mtu:
        return 0
    return max(node.mtu - tunnel_overhead(family, settings.overlay_encap), SMALLEST[family])


def pod_mtu(node: NodeFacts, settings: RouterSettings) -> int:
    """MTU of the pods' bridge and of pods; 0 leaves it alone."""
    if not node.mtu or not settings.auto_mtu:
        return 0
    if not settings.overlay:
        return node.mtu
    families = node.families
    overhead = max(tunnel_overhead(family, settings.overlay_encap) for family in families)
    return max(node.mtu - overhead, max(SMALLEST[family] for family in families))


def direct_segment(node: NodeFacts, family: Family) -> int:
    """TCP segment size for clients of an endpoint that answers directly; 0 where no MTU is known.

    The tunnel to the endpoint, IP in IP without a limit, goes over the uplink, and then over the pods' bridge there.
    """
    mtu = min((mtu for mtu in (node.mtu, node.bridge_mtu) if mtu), default=0)
    return mtu - 2 * HEADER[family] - TCP if mtu else 0
