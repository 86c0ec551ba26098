"""Local pod -> the link that it has to send through: nobody escapes policy under the address of somebody else.

What comes in from a pod's link with a source address that belongs to the cluster (a pod CIDR, a node) has to have the
pod's own. A pod that an egress policy selects may use no other address at all, while other pods may forward for
networks outside the cluster, as VPN gateways do.
"""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.names import DISPATCH_CHAIN, GUARD_CHAIN, GUARD_SET, chain_key, fixed_set
from kuberouter.decode.scalars import show_prefix
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, Fragment, Owner, Prefix, Row, family_of
from kuberouter.model.netfilter import Member, MemberKey, Rule, RuleKey, SetType
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings

GUARD_RANK = 5
"""In the dispatch chain: behind the rule that clears marks, before the profiles."""


def compile_cluster_addresses(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings
) -> Fragment:
    """One node's share of the addresses that belong to the cluster: its own and its pod CIDRs."""
    del settings
    found = view.node_object(key.subject.name)
    if found is None:
        return Fragment()
    addresses = (*found.internal_addresses, *found.external_addresses)
    prefixes = (*found.pod_cidrs, *(Prefix(address, len(address) * 8) for address in addresses))
    rows: list[Row] = []
    for family in node.families:
        members = fixed_set(family, GUARD_SET, SetType.HASH_NET)
        rows.append(members)
        rows += [
            Member(MemberKey(members.key.name, p.address, p.length))
            for p in prefixes
            if p.family is family and p.length
        ]
    return Fragment(tuple(rows))


def compile_binding(key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings) -> Fragment:
    """The rules about one pod's source addresses; nothing while its link is not known."""
    del settings
    pod = view.pod(key.subject)
    link = view.bindings.link_of(pod) if pod is not None else None
    if pod is None or link is None:
        return Fragment()
    selecting = (view.policy(ref) for ref in view.matches.policies_of(pod.ref))
    confined = any(policy is not None and policy.egress is not None for policy in selecting)
    rows: list[Row] = []
    for family in node.families:
        own = next((address for address in pod.addresses if family_of(address) is family), None)
        rows += _guard(family, link, own, confined=confined)
    return Fragment(tuple(rows))


def _guard(family: Family, link: PodLink, own: bytes | None, *, confined: bool) -> list[Row]:
    words = [f"-m physdev --physdev-in {link.ref.name}" if link.bridged else f"-i {link.ref.name}"]
    if own is not None:
        words.insert(0, f"! -s {show_prefix(Prefix(own, len(own) * 8))}")
    if not confined:
        words.append(f"-m set --match-set {fixed_set(family, GUARD_SET, SetType.HASH_NET).key.name} src")
    guard = chain_key(family, GUARD_CHAIN)
    dispatch = chain_key(family, DISPATCH_CHAIN[Direction.EGRESS])
    return [
        Rule(RuleKey(guard, GUARD_RANK, f"{' '.join(words)} -j DROP")),
        Rule(RuleKey(dispatch, GUARD_RANK, f"-j {GUARD_CHAIN}")),
    ]
