"""Pod -> the peer sets it is in. The owner is the pod, so a pod event writes only what the pod joins or leaves."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.spelling import Spelling
from kuberouter.model.core import Fragment, Owner, Row, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import FirewallSettings


def compile_membership(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """The entries of one pod, of this node or any other, in the sets that policies in force here refer to."""
    del settings
    pod = view.pod(key.subject)
    if pod is None:
        return Fragment()
    sets, port_sets = view.matches.sets_of(pod.ref)
    named = [
        (pods, port.number)
        for pods in port_sets
        for port in pod.ports
        if port.name == pods.port and port.protocol is pods.protocol and not (pods.local and pod.node != node.name)
    ]
    families = node.enabled
    rows: list[Row] = []
    for address in pod.addresses:
        family = family_of(address)
        if family in families:
            rows += spell.members(family, sets, address)
            rows += [spell.port_member(family, pods, address, number) for pods, number in named]
    return Fragment(tuple(rows))
