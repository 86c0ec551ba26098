"""The tunnel to another node: a link, and the way of pods to that node's own address through it."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.mtu import tunnel_mtu
from kuberouter.compilers.names import TUNNEL_TABLE, tunnel_name
from kuberouter.model.core import Family, Prefix, Row, family_of
from kuberouter.model.network import Link, LinkKey, LinkKind, Route, RouteKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

KINDS = {Family.IPV4: LinkKind.IPIP, Family.IPV6: LinkKind.IP6TNL}


def name_of(view: ClusterView, address: bytes) -> str:
    """The name of the tunnel to a node; of addresses that look alike the lowest has the name known of old."""
    alike = view.routes.alike(address)
    return tunnel_name(address, plain=not alike or alike[0] == address)


def tunnel_to(view: ClusterView, address: bytes, *, node: NodeFacts, settings: RouterSettings) -> tuple[Row, ...]:
    """The rows of a tunnel; owners of several routes through it share them. Empty without an address to send from."""
    family = family_of(address)
    local = node.address(family)
    if local is None:
        return ()
    name = name_of(view, address)
    host = Prefix(address, len(address) * 8)
    return (
        Link(
            LinkKey(name),
            KINDS[family],
            tunnel_mtu(node, settings, family),
            local,
            address,
            encap_port=settings.overlay_port if settings.overlay_encap == "fou" else 0,
        ),
        # Packets of pods go to the node the way they come from it, or the reverse path filter would drop them.
        Route(RouteKey(TUNNEL_TABLE, host), devices=(name,)),
    )
