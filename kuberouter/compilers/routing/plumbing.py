"""What packets of pods need on this node: the bridge, forwarding, the way out, the rule that leads into tunnels."""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.cluster.routes import node_addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.host import advertised_routes, family_settings
from kuberouter.compilers.mtu import pod_mtu
from kuberouter.compilers.names import (
    BRIDGE_LINK,
    NODE_ADDRESS_SET,
    PLAIN_SET,
    POD_SUBNET_SET,
    TUNNEL_TABLE,
    set_name,
)
from kuberouter.model.core import Family, Fragment, Owner, Row, family_of
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.netfilter import (
    Hook,
    HookKey,
    HookRank,
    IpSet,
    IpSetKey,
    Member,
    MemberKey,
    Position,
    SetType,
    Table,
)
from kuberouter.model.network import FouPort, FouPortKey, Link, LinkKey, LinkKind, PolicyRule, PolicyRuleKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

SYSCTLS = {
    Family.IPV4: ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"),
    Family.IPV6: ("net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables"),
}
"""Settings that must be 1, by family. Bridged packets of pods pass iptables too, or policy could not see them."""


def compile_plumbing(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The bridge, and per family in use: settings, sets, accepting and masquerading hooks, rules into table 77."""
    del key, view
    rows: list[Row] = [Link(LinkKey(BRIDGE_LINK), LinkKind.BRIDGE, pod_mtu(node, settings))]
    rows += family_settings(node)
    rows += advertised_routes(node)
    for family in node.families:
        rows += (Sysctl(SysctlKey(path), "1") for path in SYSCTLS[family])
        rows += _forwarding(family, node)
        rows.append(IpSet(IpSetKey(set_name(POD_SUBNET_SET, family)), SetType.HASH_NET, family))
        rows.append(IpSet(IpSetKey(set_name(NODE_ADDRESS_SET, family)), SetType.HASH_IP, family))
        if settings.pod_egress:
            rows += _egress(family, settings)
    if settings.overlay:
        if settings.overlay_port:
            rows += (FouPort(FouPortKey(family, settings.overlay_port)) for family in node.families)
        rows += (PolicyRule(PolicyRuleKey(p.family, p, TUNNEL_TABLE)) for p in node.pod_cidrs)
    return Fragment(tuple(rows))


def _forwarding(family: Family, node: NodeFacts) -> Iterator[Row]:
    """Packets from and to pods, and replies on their way out, go on even where the host's default is to drop."""
    words = [f"-i {BRIDGE_LINK}", f"-o {BRIDGE_LINK}"]
    if node.uplink:
        words.append(f"-o {node.uplink}")
    for match in words:
        yield Hook(HookKey(family, Table.FILTER, "FORWARD", f"{match} -j ACCEPT"), HookRank.FORWARD)


def _egress(family: Family, settings: RouterSettings) -> Iterator[Row]:
    """Packets of pods that leave the cluster carry the node's address; ports at random, so that two do not collide.

    Networks that the user names see the pods themselves, as nodes and pods do.
    """
    pods, spared = set_name(POD_SUBNET_SET, family), [POD_SUBNET_SET, NODE_ADDRESS_SET]
    plain = [block for block in settings.plain_destinations if block.family is family]
    if plain:
        name = set_name(PLAIN_SET, family)
        spared.append(PLAIN_SET)
        yield IpSet(IpSetKey(name), SetType.HASH_NET, family)
        for block in dict.fromkeys(plain):
            yield Member(MemberKey(name, block.address, block.length))
    others = "".join(f" -m set ! --match-set {set_name(name, family)} dst" for name in spared)
    text = f"-m set --match-set {pods} src{others} -j MASQUERADE --random-fully"
    yield Hook(HookKey(family, Table.NAT, "POSTROUTING", text), HookRank.EGRESS, Position.LAST)


def compile_nodesets(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The entries of one node, this one or another: its pod CIDRs and its addresses."""
    del settings
    other = view.node_object(key.subject.name)
    if other is None:
        return Fragment()
    families = node.families
    rows: list[Row] = []
    for prefix in other.pod_cidrs:
        if prefix.family in families:
            name = set_name(POD_SUBNET_SET, prefix.family)
            rows.append(Member(MemberKey(name, prefix.address, prefix.length)))
    for address in node_addresses(other):
        if family_of(address) in families:
            name = set_name(NODE_ADDRESS_SET, family_of(address))
            rows.append(Member(MemberKey(name, address, len(address) * 8)))
    return Fragment(tuple(rows))
