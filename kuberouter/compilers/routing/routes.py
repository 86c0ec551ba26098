"""A learned route in this node's kernel: through the next hop where it is a neighbour, else through a tunnel to it."""

from __future__ import annotations

from kuberouter.cluster.facts import network_of
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.routing.tunnels import name_of, tunnel_to
from kuberouter.model.cluster import LearnedRoute
from kuberouter.model.core import Fragment, Owner, Prefix, Problem, Reason, Row, family_of
from kuberouter.model.network import TABLE_MAIN, Route, RouteKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings


def compile_route(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """One learned route.

    Next hops in a connected subnet of this node become gateways. Those of other nodes, and with a full overlay all
    nodes', are reached through a tunnel. Any other next hop is left to the routes that the host has by other means.
    """
    learned = view.learned(key.subject)
    if learned is None or learned.prefix in node.pod_cidrs:
        return Fragment()
    prefix = learned.prefix
    hops = sorted(hop for hop in learned.next_hops if hop not in node.addresses)
    tunnelled = [hop for hop in hops if _needs_tunnel(hop, view, node=node, settings=settings)]
    route = RouteKey(TABLE_MAIN, prefix)
    gateways = tuple(
        hop for hop in hops if hop not in tunnelled and _connected(hop, node) and family_of(hop) is prefix.family
    )
    if gateways:
        return Fragment((Route(route, gateways),))
    for hop in tunnelled:
        rows = _through_tunnel(learned, hop, view, node=node, settings=settings)
        if rows:
            return Fragment(rows)
    if any(_connected(hop, node) or hop in tunnelled for hop in hops):
        text = "no next hop of it can be used from here"
        return Fragment(problems=(Problem(key.subject, "", Reason.UNSUPPORTED, text),))
    return Fragment()


def _through_tunnel(
    learned: LearnedRoute, hop: bytes, view: ClusterView, *, node: NodeFacts, settings: RouterSettings
) -> tuple[Row, ...]:
    prefix = learned.prefix
    # Inside itself a tunnel would carry its own packets round and round.
    inside = family_of(hop) is prefix.family and network_of(hop, prefix.length) == prefix
    source = node.address(prefix.family)
    link = tunnel_to(view, hop, node=node, settings=settings)
    if inside or source is None or not link or family_of(hop) is not prefix.family:
        return ()
    return (*link, Route(RouteKey(TABLE_MAIN, prefix), device=name_of(view, hop), source=source))


def _connected(address: bytes, node: NodeFacts) -> bool:
    return any(_contains(subnet, address) for subnet in node.subnets)


def _contains(subnet: Prefix, address: bytes) -> bool:
    return subnet.family is family_of(address) and network_of(address, subnet.length) == subnet


def _needs_tunnel(address: bytes, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> bool:
    if not settings.overlay or not view.routes.has_node(address):
        return False
    return settings.overlay_full or not _connected(address, node)
