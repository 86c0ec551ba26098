"""Whose answers have to come back through this node, and therefore see its address as their client."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import HAIRPIN_SET, SNAT_CHAIN, set_name
from kuberouter.model.cluster import EndpointSlice
from kuberouter.model.core import Family, Fragment, ObjectRef, Owner, Problem, Reason, Row
from kuberouter.model.ipvs import Destination
from kuberouter.model.netfilter import (
    ChainKey,
    Hook,
    HookKey,
    HookRank,
    Member,
    Position,
    SourcedKey,
    Table,
    make_chain,
)
from kuberouter.model.network import BridgePort, BridgePortKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings


def snat_rows(family: Family, node: NodeFacts, settings: ProxySettings) -> Iterator[Row]:
    """Proxied flows between this node's pods keep their addresses; all others answer through this node.

    One chain for all pod CIDRs of the family: a flow is exempt if it touches any of them, not if it misses one. An
    endpoint that reaches itself is both ends of its flow, so its answer would never leave it: that comes first.
    """
    source = node.address(family)
    if source is None:
        return
    snat = f"-j SNAT --to-source {ipaddress.ip_address(source)} --random-fully"
    rules: list[str] = []
    if not settings.masquerade_all:
        for prefix in node.pod_cidrs:
            if prefix.family is family:
                rules += (f"-{flag} {prefix} -j RETURN" for flag in "sd")
    rules.append(snat)
    hairpin = f"-m set --match-set {set_name(HAIRPIN_SET, family)} src,dst,dst {snat}"
    # A kernel that lacks the type of that set must not lose SNAT as a whole, nor a tool that knows no such ports.
    spares = tuple((rule, rule.replace(" --random-fully", "")) for rule in (hairpin, snat))
    yield make_chain(ChainKey(family, Table.NAT, SNAT_CHAIN), (hairpin, *rules), fallback=tuple(rules), spares=spares)
    # As the tools print it: "--ipvs" is implied, and left out by them.
    text = f"-m ipvs --vdir ORIGINAL --vmethod MASQ -j {SNAT_CHAIN}"
    yield Hook(HookKey(family, Table.NAT, "POSTROUTING", text), HookRank.MASQUERADE, Position.LAST)


def snat_problems(node: NodeFacts, settings: ProxySettings, subject: ObjectRef) -> Iterator[Problem]:
    """A family without pod CIDR: nobody can tell this node's pods from others, so all flows get the node's address."""
    if settings.masquerade_all:
        return
    for family in node.families:
        if not any(prefix.family is family for prefix in node.pod_cidrs):
            name = "IPv4" if family is Family.IPV4 else "IPv6"
            text = f"there is no {name} pod CIDR: every {name} connection to a Service comes from the node's address"
            yield Problem(subject, "spec.podCIDRs", Reason.MISSING, text)


def hairpin_members(destinations: Iterable[Destination], found: EndpointSlice, node: NodeFacts) -> Iterator[Member]:
    """Endpoints of this node of a Service that asks for it, with the port on which they answer: they reach themselves.

    Whatever the address through which they try: cluster, external and load balancer ones and node ports alike. Those
    with the node's own address need no help, they never leave it. Nor do those that answer directly, for they have the
    address themselves.
    """
    here = {e.address for e in found.endpoints if e.node == node.name}.difference(node.addresses, node.local_addresses)
    for address, protocol, port, family in dict.fromkeys(
        (row.key.address, row.key.service.protocol, row.key.port, row.key.service.family)
        for row in destinations
        if row.key.address in here and not row.key.service.mark
    ):
        name = set_name(HAIRPIN_SET, family)
        bits = len(address) * 8
        yield Member(SourcedKey(name, address, bits, int(protocol), port, address, bits))


def compile_bridge_port(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """The bridge port of a pod, if pods may have to reach themselves.

    The bridge treats the answer, whose destination is translated back to the pod, as one that it can deliver itself,
    and without hairpin mode it delivers nothing to the port that it came from.
    """
    del node
    link = view.pod_link(key.subject)
    if link is None or not link.bridged or not (settings.hairpin or view.hairpins.wanted):
        return Fragment()
    return Fragment((BridgePort(BridgePortKey(link.ref.name)),))
