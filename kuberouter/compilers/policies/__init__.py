"""NetworkPolicy to netfilter. Compilers, each for the smallest thing that changes:

- `policy`: what a policy allows: its chains, the sets they refer to, the prefixes of its ipBlocks;
- `membership`: a pod's entries in peer sets;
- `isolation`: a local pod's profiles and its membership in them;
- `cluster-addresses`, `binding`: whose addresses a pod must not borrow, and through which link it sends;
- `node-ports`: ports of the node that Services are reached by;
- `firewall`: the fixed chains and hooks of the node;
- `annotation`: no rows, only what is to be said of an annotation without effect.
"""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.cluster.selectors import pod_sets
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.annotation import compile_annotation
from kuberouter.compilers.policies.binding import compile_binding, compile_cluster_addresses
from kuberouter.compilers.policies.firewall import compile_firewall, compile_node_ports
from kuberouter.compilers.policies.iptables import policy_rules, policy_sets
from kuberouter.compilers.policies.isolation import compile_isolation
from kuberouter.compilers.policies.membership import compile_membership
from kuberouter.compilers.policies.names import pod_set
from kuberouter.model.cluster import NetworkPolicy
from kuberouter.model.core import Family, Fragment, Owner, Row
from kuberouter.model.netfilter import Member, MemberKey, SetType
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction, PodSet
from kuberouter.model.settings import FirewallSettings

__all__ = [
    "COMPILERS",
    "compile_binding",
    "compile_cluster_addresses",
    "compile_firewall",
    "compile_isolation",
    "compile_membership",
    "compile_policy",
]


def compile_policy(key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings) -> Fragment:
    """Chains and sets of one policy; nothing while it selects no pod of this node."""
    del settings
    policy = view.policy(key.subject)
    if policy is None or not view.matches.active(policy.ref):
        return Fragment()
    rows: dict[Row, None] = {}
    for family in node.families:
        # Pods enter a set in every family that they have, so it stands in each, even where no rule of it refers to it.
        rows.update(dict.fromkeys(pod_set(family, pods) for pods in sorted_sets(policy)))
        for direction in Direction:
            rows.update(dict.fromkeys(_program(policy, direction, family)))
    return Fragment(tuple(rows), policy.problems)


def sorted_sets(policy: NetworkPolicy) -> list[PodSet]:
    """The sets of pods that a policy refers to, in a fixed order."""
    return sorted(pod_sets(policy), key=repr)


def _program(policy: NetworkPolicy, direction: Direction, family: Family) -> Iterator[Row]:
    chain = policy_rules(policy, direction, family)
    if chain is None or not chain.rules:
        return
    for members, allowance in policy_sets(policy, direction, family):
        yield members
        # The set of a named port stands beside the set of the blocks in one allowance; pods fill that one.
        if members.type is SetType.HASH_NET and isinstance(allowance.peer, tuple):
            for prefix in allowance.peer:
                yield Member(MemberKey(members.key.name, prefix.address, prefix.length))
    yield chain


COMPILERS = (
    ("policy", compile_policy),
    ("membership", compile_membership),
    ("isolation", compile_isolation),
    ("cluster-addresses", compile_cluster_addresses),
    ("binding", compile_binding),
    ("node-ports", compile_node_ports),
    ("firewall", compile_firewall),
    ("annotation", compile_annotation),
)
"""Names and functions in the order in which they should run: what is referred to before what refers."""
