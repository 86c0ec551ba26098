"""This node's identity as a BGP speaker."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import generated_router_id
from kuberouter.decode.annotations import NODE_ASN, NODE_LOCAL_ADDRESSES, field
from kuberouter.decode.scalars import show_address
from kuberouter.model.bgp import Speaker, SpeakerKey
from kuberouter.model.core import Family, Fragment, ObjectRef, Owner, Problem, Reason, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

GENERATE = "generate"


def own_asn(view: ClusterView, settings: RouterSettings) -> int:
    """Our AS number: the cluster's, or where nodes do not all peer with each other the node's; 0 while it has none."""
    return settings.asn if settings.full_mesh else view.bgp.asn


def compile_speaker(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """AS number, router id, and what to listen on: the annotation's addresses, else the best one of each family."""
    try:
        router_id = _router_id(node, settings.router_id)
    except AddressValueError:
        return Fragment(
            problems=(Problem(key.subject, "--router-id", Reason.MALFORMED, "the router id is no IPv4 address"),)
        )
    asn = own_asn(view, settings)
    if not asn:
        text = "with --nodes-full-mesh=false a node needs an AS number; it speaks no BGP"
        return Fragment(problems=(Problem(key.subject, field(NODE_ASN.key), Reason.MISSING, text),))
    addresses, problems = _addresses(key.subject, view, node)
    return Fragment((Speaker(SpeakerKey(), asn, router_id, settings.bgp_port, addresses),), problems)


def _addresses(ref: ObjectRef, view: ClusterView, node: NodeFacts) -> tuple[tuple[bytes, ...], tuple[Problem, ...]]:
    wanted = [a for a in view.bgp.local_addresses if family_of(a) in node.families]
    # The address of nobody stands for all of its family.
    here = tuple(a for a in wanted if a in node.bindable or not any(a))
    problems = tuple(
        Problem(
            ref,
            field(NODE_LOCAL_ADDRESSES.key),
            Reason.MISSING,
            f"no link of this node has {show_address(each)}, so nothing listens there",
        )
        for each in wanted
        if each not in here
    )
    if here:
        return here, problems
    best = tuple(a for family in node.families if (a := node.address(family)) is not None)
    # An address that some cloud translates to ours cannot be bound.
    return tuple(a for a in best if a in node.bindable) or best, problems


def _router_id(node: NodeFacts, wanted: str) -> bytes:
    """What is asked for; by default the IPv4 address, or one made of the IPv6 address where there is no other."""
    if wanted and wanted != GENERATE:
        return IPv4Address(wanted).packed
    address = node.address(Family.IPV4)
    if wanted == GENERATE or address is None:
        return generated_router_id(node.addresses[0])
    return address
