"""Local pod -> verdict order: which profile judges each direction of a pod, and the pod's place in it.

A profile is a combination of policy chains; pods with the same combination share it. One rule in the dispatch chain
sends the members of a profile's set into its chain by goto, so the first profile that matches decides alone. While a
pod moves from one profile to another it is in both sets for a moment: either verdict is a complete one.
"""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.cluster.selectors import enforceable
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.iptables import policy_rules, profile_rules
from kuberouter.compilers.policies.names import DISPATCH_CHAIN, USE, chain_key, open_set, profile_set
from kuberouter.model.cluster import NetworkPolicy
from kuberouter.model.core import Family, Fragment, Owner, Row, family_of
from kuberouter.model.netfilter import Member, MemberKey, Rule, RuleKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings

DISPATCH_RANK = 10


def compile_isolation(key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings) -> Fragment:
    """The profiles of one pod of this node and its membership in them.

    A pod that no policy isolates in a direction has none there, unless only known pods may speak: then it is known.
    """
    pod = view.pod(key.subject)
    if pod is None or not enforceable(pod) or pod.node != node.name:
        return Fragment()
    selecting = [p for ref in view.matches.policies_of(pod.ref) if (p := view.policy(ref)) is not None]
    if not selecting and not settings.default_deny:
        return Fragment()
    rows: list[Row] = []
    for family in node.families:
        addresses = [a for a in pod.addresses if family_of(a) is family]
        for direction in Direction if addresses else ():
            rows += _place(selecting, direction, family, addresses, settings)
    return Fragment(tuple(rows))


def _place(
    selecting: list[NetworkPolicy],
    direction: Direction,
    family: Family,
    addresses: list[bytes],
    settings: FirewallSettings,
) -> Iterator[Row]:
    chains = [c for policy in selecting if (c := policy_rules(policy, direction, family)) is not None]
    if chains:
        bodies = tuple(sorted({chain.key.name for chain in chains if chain.rules}))
        members = profile_set(family, direction, bodies)
        profile = profile_rules(family, direction, bodies, cut=settings.cut_flows)
        yield profile
        verdict = f"-g {profile.key.name}"
    elif settings.default_deny:
        members = open_set(family, direction)
        verdict = "-j RETURN"
    else:
        return
    yield members
    for address in addresses:
        yield Member(MemberKey(members.key.name, address, len(address) * 8))
    text = f"-m set --match-set {members.key.name} {USE[direction].value} {verdict}"
    yield Rule(RuleKey(chain_key(family, DISPATCH_CHAIN[direction]), DISPATCH_RANK, text))
