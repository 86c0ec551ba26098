"""A learned route in this node's kernel: through the next hop where it is a neighbour, else through a tunnel to it."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.routing.tunnels import name_of, tunnel_to
from kuberouter.model.core import Family, Fragment, Owner, Prefix, Problem, Reason, Row, family_of
from kuberouter.model.network import TABLE_MAIN, Route, RouteKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings


def compile_route(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """One learned route. Next hops that are equally good share the load.

    Next hops in a connected subnet of this node become gateways. Those of other nodes, and with a full overlay all
    nodes', are reached through a tunnel. Any other next hop is left to the routes that the host has by other means.
    """
    learned = view.learned(key.subject)
    if learned is None or learned.prefix in node.pod_cidrs or not _allowed(learned.prefix, settings):
        return Fragment()
    prefix = learned.prefix
    if (other := view.foreign(key.subject)) is not None:
        text = f"this host has a route to {prefix} that is not ours ({other.text}), so none is written"
        return Fragment(problems=(Problem(key.subject, "", Reason.CONFLICT, text),))
    near: list[bytes] = []
    tunnelled: list[bytes] = []
    for hop in sorted(learned.next_hops):
        if hop in node.addresses:
            continue
        connected = any(subnet.covers(hop) for subnet in node.subnets)
        if settings.overlay and (settings.overlay_full or not connected) and view.routes.has_node(hop):
            tunnelled.append(hop)
        elif connected:
            near.append(hop)
    if gateways := tuple([hop for hop in near if len(hop) == len(prefix.address)]):
        return Fragment((Route(RouteKey(TABLE_MAIN, prefix), gateways),))
    rows = _through_tunnels(prefix, tunnelled, view, node=node, settings=settings)
    if not rows and (near or tunnelled):
        text = "no next hop of it can be used from here"
        return Fragment(problems=(Problem(key.subject, "", Reason.UNSUPPORTED, text),))
    return Fragment(rows)


def _through_tunnels(
    prefix: Prefix, hops: list[bytes], view: ClusterView, *, node: NodeFacts, settings: RouterSettings
) -> tuple[Row, ...]:
    source = node.address(prefix.family)
    # Inside itself a tunnel would carry its own packets round and round.
    usable = [hop for hop in hops if family_of(hop) is prefix.family and not prefix.covers(hop)]
    if prefix.family is Family.IPV6:
        # Linux has no IPv6 route with several ways but through gateways.
        usable = usable[:1]
    if source is None or not usable:
        return ()
    tunnels = (row for hop in usable for row in tunnel_to(view, hop, node=node, settings=settings))
    devices = tuple(sorted(name_of(view, hop) for hop in usable))
    return (*tunnels, Route(RouteKey(TABLE_MAIN, prefix), devices=devices, source=source))


def _allowed(prefix: Prefix, settings: RouterSettings) -> bool:
    """Whether a route may be learned at all; policy in gobgpd holds the same, but not for what it had before."""
    allowed = settings.import_allow
    return not allowed or any(block.length <= prefix.length and block.covers(prefix.address) for block in allowed)
