"""This node's identity as a BGP speaker."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import generated_router_id
from kuberouter.model.bgp import Speaker, SpeakerKey
from kuberouter.model.core import Family, Fragment, Owner, Problem, Reason
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

GENERATE = "generate"


def compile_speaker(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """ASN, router id, and the node's best address of each family to listen on."""
    del view
    try:
        router_id = _router_id(node, settings.router_id)
    except AddressValueError:
        return Fragment(
            problems=(Problem(key.subject, "--router-id", Reason.MALFORMED, "the router id is no IPv4 address"),)
        )
    best = tuple(a for family in node.families if (a := node.address(family)) is not None)
    # An address that some cloud translates to ours cannot be bound.
    bindable = tuple(a for a in best if a in node.local_addresses)
    return Fragment((Speaker(SpeakerKey(), settings.asn, router_id, settings.bgp_port, bindable or best),))


def _router_id(node: NodeFacts, wanted: str) -> bytes:
    """What is asked for; by default the IPv4 address, or one made of the IPv6 address where there is no other."""
    if wanted and wanted != GENERATE:
        return IPv4Address(wanted).packed
    address = node.address(Family.IPV4)
    if wanted == GENERATE or address is None:
        return generated_router_id(node.addresses[0])
    return address
