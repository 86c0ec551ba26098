"""Pod -> the peer sets it is in. The owner is the pod, so a pod event writes only what the pod joins or leaves."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.names import pod_set
from kuberouter.model.core import Fragment, Owner, Row, family_of
from kuberouter.model.netfilter import Member, MemberKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import FirewallSettings


def compile_membership(key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings) -> Fragment:
    """The entries of one pod, of this node or any other, in the sets that policies in force here refer to."""
    del settings
    pod = view.pod(key.subject)
    if pod is None:
        return Fragment()
    families = node.families
    rows: list[Row] = []
    for pods in view.matches.sets_of(pod.ref):
        for address in pod.addresses:
            family = family_of(address)
            if family not in families:
                continue
            name, bits = pod_set(family, pods).key.name, len(address) * 8
            if not pods.port:
                rows.append(Member(MemberKey(name, address, bits)))
                continue
            rows += [
                Member(MemberKey(name, address, bits, port.protocol, port.number))
                for port in pod.ports
                if port.name == pods.port and port.protocol is pods.protocol
            ]
    return Fragment(tuple(rows))
