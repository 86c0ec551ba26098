"""The top chains with their hooks, the dispatch chains, the ports of services.

Every top chain lets packets go on to everybody else's rules by RETURN; it never accepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kuberouter.compilers.policies.firewall import GATES, Gate
from kuberouter.compilers.policies.iptables.guard import always, guard_rows
from kuberouter.compilers.policies.iptables.names import chain_key, fixed_set
from kuberouter.compilers.policies.iptables.policies import (
    CLEAR_ALLOWED,
    CLEAR_BOTH,
    SET_ALLOWED,
    cut_chains,
    ended,
    invalid_rules,
    open_flows,
    reopened,
    unknown_rules,
    untold,
)
from kuberouter.compilers.policies.names import (
    ALLOW_CHAIN,
    BORROWED_CHAIN,
    DISPATCH_CHAIN,
    GUARD_CHAIN,
    NODE_PORT_SET,
    TOP_CHAIN,
    UNKNOWN_CHAIN,
)
from kuberouter.model.core import Family, L4Protocol, Prefix, Row
from kuberouter.model.netfilter import (
    Hook,
    HookKey,
    HookRank,
    IpSet,
    Member,
    MemberKey,
    Rule,
    RuleKey,
    SetType,
    Table,
    make_chain,
)
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings

UNKNOWN_RANK = 90
"""Behind the rules of all profiles."""
FROM_NODE = "-m addrtype --src-type LOCAL -j RETURN"
FORGED = "! -i lo -m addrtype --src-type LOCAL"
"""Comes in by a wire and says that it is from the node; the kernel itself refuses that for IPv4 only."""


def fixed(family: Family, settings: FirewallSettings) -> Iterator[Row]:
    """What stands without any policy."""
    yield _node_ports(family)
    yield make_chain(chain_key(family, ALLOW_CHAIN), (SET_ALLOWED,))
    # Marks that packets bring along are wiped before they could count.
    for direction, wipe in ((Direction.EGRESS, CLEAR_BOTH), (Direction.INGRESS, CLEAR_ALLOWED)):
        yield Rule(RuleKey(chain_key(family, DISPATCH_CHAIN[direction]), 0, wipe))
    yield from guard_rows(family)
    yield invalid_rules(family)
    if settings.cut_flows:
        yield from cut_chains(family)
    for gate in GATES:
        chain = TOP_CHAIN[gate.hook]
        yield make_chain(chain_key(family, chain), tuple(_top(family, gate, settings)))
        yield Hook(HookKey(family, Table.FILTER, gate.hook.upper(), f"-j {chain}"), HookRank.POLICY)


def _top(family: Family, gate: Gate, settings: FirewallSettings) -> Iterator[str]:
    if not gate.node:
        # Before anything passes unjudged: who knows its numbers may slip a packet into the open flow of somebody else,
        # and IPVS sends on what it takes as if the node had sent it.
        yield f"-j {GUARD_CHAIN}"
    yield from open_flows(cut=settings.cut_flows)
    yield from always(family)
    if gate.node:
        yield FROM_NODE
        if settings.cut_flows:
            yield untold()
    if gate.services:
        if settings.cut_flows:
            yield ended()
        if settings.default_deny:
            # The node speaks to itself also from its addresses on the pods' bridge.
            yield "-i lo -j RETURN"
        for match in _exempt(family, settings):
            yield f"{match} {FORGED} -j {BORROWED_CHAIN}"
            yield f"{match} -j RETURN"
    for direction in gate.directions:
        yield f"-j {DISPATCH_CHAIN[direction]}"
    if gate.services:
        # IPVS looks for services of marks behind this, and for the whole mark.
        yield CLEAR_BOTH
    if settings.cut_flows:
        yield reopened()


def _exempt(family: Family, settings: FirewallSettings) -> Iterator[str]:
    for prefix in settings.cluster_ranges:
        if prefix.family is family:
            yield f"-d {prefix}"
    ports = _node_ports(family).key.name
    yield f"-m addrtype --dst-type LOCAL -m set --match-set {ports} dst,dst"
    for prefix in (*settings.external_ranges, *settings.load_balancer_ranges):
        if prefix.family is family:
            yield f"-d {prefix}"


def node_ports(family: Family, ports: Iterable[tuple[L4Protocol, int]]) -> Iterator[Row]:
    """Ports of the node that the proxy serves."""
    members = _node_ports(family)
    yield members
    everywhere = bytes(4 if family is Family.IPV4 else 16)
    for protocol, port in ports:
        yield Member(MemberKey(members.key.name, everywhere, 0, protocol, port))


def cluster_ips(family: Family, served: Iterable[tuple[bytes, L4Protocol, int]]) -> Iterator[Row]:
    """Cluster IPs with a port, in the set of the node ports: each of these at one address, not at all."""
    members = _node_ports(family)
    yield members
    for address, protocol, port in served:
        yield Member(MemberKey(members.key.name, address, len(address) * 8, protocol, port))


def _node_ports(family: Family) -> IpSet:
    return fixed_set(family, NODE_PORT_SET, SetType.HASH_NET_PORT)


def known_only(family: Family, prefixes: Iterable[Prefix]) -> Iterator[Row]:
    """Below all profiles: what no profile has taken and still has an address of this node's pods is nobody's yet."""
    yield unknown_rules(family)
    for prefix in prefixes:
        for direction, option in ((Direction.EGRESS, "-s"), (Direction.INGRESS, "-d")):
            text = f"{option} {prefix} -j {UNKNOWN_CHAIN}"
            yield Rule(RuleKey(chain_key(family, DISPATCH_CHAIN[direction]), UNKNOWN_RANK, text))
