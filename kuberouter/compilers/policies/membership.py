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
    families = node.families
    addresses = [address for address in pod.addresses if family_of(address) in families]
    member = spell.member
    rows: list[Row] = []
    for pods in view.matches.sets_of(pod.ref):
        if not pods.port:
            for address in addresses:
                rows.append(member(pods, address))
            continue
        for port in pod.ports:
            if port.name == pods.port and port.protocol is pods.protocol:
                for address in addresses:
                    rows.append(member(pods, address, port.protocol, port.number))
    return Fragment(tuple(rows))
