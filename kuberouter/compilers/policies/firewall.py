"""What the firewall needs before any policy: its top chains, their hooks, the dispatch chains, bridge filtering.

Every top chain lets packets go on to everybody else's rules by RETURN; it never accepts, because a policy that allows
something does not overrule the firewall of the host.
"""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.iptables import (
    CLEAR_ALLOWED,
    CLEAR_BOTH,
    allow_rules,
    cut_rules,
    open_flows,
    reopened,
    unknown_rules,
)
from kuberouter.compilers.policies.names import (
    DISPATCH_CHAIN,
    FORWARD_CHAIN,
    INPUT_CHAIN,
    NODE_PORT_SET,
    OUTPUT_CHAIN,
    UNKNOWN_CHAIN,
    chain_key,
    fixed_set,
)
from kuberouter.decode.scalars import show_prefix
from kuberouter.model.core import Family, Fragment, Owner, Prefix, Problem, Reason, Row
from kuberouter.model.host import Sysctl, SysctlKey
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
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings

UNKNOWN_RANK = 90
"""Behind the rules of all profiles."""
ICMP_ALWAYS = (3, 8, 11)
"""Destination unreachable, echo request, time exceeded (RFC 792)."""
ICMPV6_ALWAYS = (1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 143)
"""Errors and echo (RFC 4443), multicast listeners (RFC 2710, 3810), neighbour discovery (RFC 4861)."""
FROM_NODE = "-m addrtype --src-type LOCAL -j RETURN"
"""The kubelet and the node itself reach their own pods. Only in OUTPUT is a local source proof of that."""

BRIDGE_FILTERING = {
    Family.IPV4: "net/bridge/bridge-nf-call-iptables",
    Family.IPV6: "net/bridge/bridge-nf-call-ip6tables",
}


def compile_firewall(key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings) -> Fragment:
    """The fixed part of the firewall on this node, for each family in use."""
    del view
    rows = [row for family in node.families for row in _fixed(family, settings)]
    if not settings.default_deny:
        return Fragment(tuple(rows))
    if not node.pod_cidrs:
        text = "is not known, so --netpol-default-deny has nothing to close"
        return Fragment(tuple(rows), (Problem(key.subject, "spec.podCIDRs", Reason.MISSING, text),))
    for family in node.families:
        rows.append(unknown_rules(family))
    for prefix in node.pod_cidrs:
        rows += _known_only(prefix)
    return Fragment(tuple(rows))


def _known_only(prefix: Prefix) -> Iterator[Row]:
    """Below all profiles: what no profile has taken and still has an address of this node's pods is nobody's yet."""
    for direction, option in ((Direction.EGRESS, "-s"), (Direction.INGRESS, "-d")):
        text = f"{option} {show_prefix(prefix)} -j {UNKNOWN_CHAIN}"
        yield Rule(RuleKey(chain_key(prefix.family, DISPATCH_CHAIN[direction]), UNKNOWN_RANK, text))


def _fixed(family: Family, settings: FirewallSettings) -> Iterator[Row]:
    cut = settings.cut_flows
    yield _node_ports(family)
    yield Sysctl(SysctlKey(BRIDGE_FILTERING[family]), "1")
    yield allow_rules(family)
    # Marks that packets bring along are wiped before they could count.
    for direction, wipe in ((Direction.EGRESS, CLEAR_BOTH), (Direction.INGRESS, CLEAR_ALLOWED)):
        yield Rule(RuleKey(chain_key(family, DISPATCH_CHAIN[direction]), 0, wipe))
    if cut:
        yield cut_rules(family)
    always = (*open_flows(cut=cut), *_icmp(family))
    after = (reopened(),) if cut else ()
    # The node speaks to itself also from its addresses on the pods' bridge.
    itself = ("-i lo -j RETURN",) if settings.default_deny else ()
    egress, ingress = (f"-j {DISPATCH_CHAIN[d]}" for d in (Direction.EGRESS, Direction.INGRESS))
    for builtin, chain, rules in (
        ("INPUT", INPUT_CHAIN, (*always, *itself, *_exempt(family, settings), egress, *after)),
        ("FORWARD", FORWARD_CHAIN, (*always, egress, ingress, *after)),
        ("OUTPUT", OUTPUT_CHAIN, (*always, FROM_NODE, egress, ingress, *after)),
    ):
        yield make_chain(chain_key(family, chain), rules)
        yield Hook(HookKey(family, Table.FILTER, builtin, f"-j {chain}"), HookRank.POLICY)


def _icmp(family: Family) -> Iterator[str]:
    if family is Family.IPV4:
        yield from (f"-p icmp -m icmp --icmp-type {kind} -j RETURN" for kind in ICMP_ALWAYS)
    else:
        yield from (f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in ICMPV6_ALWAYS)


def _exempt(family: Family, settings: FirewallSettings) -> Iterator[str]:
    """Traffic to Services, which IPVS meets only behind INPUT: policy judges it in OUTPUT, by the chosen endpoint."""
    for prefix in settings.cluster_ranges:
        if prefix.family is family:
            yield f"-d {show_prefix(prefix)} -j RETURN"
    ports = _node_ports(family).key.name
    yield f"-m addrtype --dst-type LOCAL -m set --match-set {ports} dst,dst -j RETURN"
    for prefix in (*settings.external_ranges, *settings.load_balancer_ranges):
        if prefix.family is family:
            yield f"-d {show_prefix(prefix)} -j RETURN"


def compile_node_ports(key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings) -> Fragment:
    """The node ports of one Service. Every other port of the node, in their range or not, is as any other address."""
    service = view.service(key.subject)
    if service is None:
        return Fragment()
    low, high = settings.node_ports
    rows: list[Row] = []
    for family in node.families:
        members = _node_ports(family)
        for port in service.ports:
            if low <= port.node_port <= high:
                rows.append(members)
                # A set of this kind has no entry for all addresses, but for each half of them.
                rows += [
                    Member(MemberKey(members.key.name, half, 1, port.protocol, port.node_port))
                    for half in _halves(family)
                ]
    return Fragment(tuple(rows))


def _node_ports(family: Family) -> IpSet:
    return fixed_set(family, NODE_PORT_SET, SetType.HASH_NET_PORT)


def _halves(family: Family) -> tuple[bytes, bytes]:
    rest = bytes(3 if family is Family.IPV4 else 15)
    return b"\0" + rest, b"\x80" + rest
