"""Local pod -> who judges it: the policies that govern each of its directions."""

from __future__ import annotations

from kuberouter.cluster.selectors import enforceable
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.rules import governs
from kuberouter.compilers.policies.spelling import Place, Spelling
from kuberouter.model.core import Fragment, Owner, Rank, Row, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings


def compile_isolation(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """The places of one pod of this node.

    A pod that no policy isolates in a direction has none there, unless only known pods may speak: then it is known.
    """
    pod = view.pod(key.subject)
    if pod is None or not enforceable(pod) or pod.node != node.name:
        return Fragment()
    selecting = [p for ref in view.matches.policies_of(pod.ref) if (p := view.policy(ref)) is not None]
    rows: list[Row] = []
    for family in node.enabled:
        addresses = tuple(a for a in pod.addresses if family_of(a) is family)
        for direction in Direction if addresses else ():
            governing = tuple(policy for policy in selecting if governs(policy, direction))
            if governing or settings.default_deny:
                rows += spell.place(Place(family, direction, addresses, governing), settings)
    # Of two pods that tell the same address one is gone, and nobody knows which: the one with policies counts.
    return Fragment(tuple(rows), rank=Rank(level=0 if selecting else 1))
