"""What a policy allows: its chains, the sets they refer to, the prefixes of its ipBlocks."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.spelling import Spelling
from kuberouter.model.core import Fragment, Owner, Row
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings


def compile_policy(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """Chains and sets of one policy; nothing while it selects no pod of this node."""
    del settings
    policy = view.policy(key.subject)
    sets = view.matches.followed(key.subject)
    if policy is None or sets is None:
        return Fragment()
    rows: list[Row] = []
    for family in node.enabled:
        # Pods enter a set in every family that they have, so it stands in each, even where no rule of it refers to it.
        rows += [spell.named_set(family, pods) for pods in sets]
        for direction in Direction:
            rows += spell.policy(policy, direction, family)
    return Fragment(tuple(rows), policy.problems)
