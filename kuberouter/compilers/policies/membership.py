"""Pod -> the peer sets it is in. The owner is the pod, so a pod event writes only what the pod joins or leaves."""

from __future__ import annotations

from functools import lru_cache

from kuberouter.cluster.indexes import NOWHERE
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.spelling import Memberships, Spelling
from kuberouter.model.cluster import ContainerPort
from kuberouter.model.core import Fragment, Owner, Row, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import PodSets
from kuberouter.model.settings import FirewallSettings


def compile_membership(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """The entries of one pod, of this node or any other, in the sets that policies in force here refer to."""
    del settings
    pod = view.pod(key.subject)
    if pod is None:
        return Fragment()
    sets = view.matches.sets_of(pod.ref)
    if sets is NOWHERE:
        return Fragment()
    memberships = _memberships(sets, pod.ports, pod.node == node.name)
    families = node.enabled
    rows: list[Row] = []
    for address in pod.addresses:
        family = family_of(address)
        if family in families:
            rows += spell.members(family, memberships, address)
    return Fragment(tuple(rows))


@lru_cache(maxsize=64)
def _memberships(sets: PodSets, ports: tuple[ContainerPort, ...], local: bool, /) -> Memberships:
    """What pods with these ports are in; those that are in the same sets are compiled one after the other."""
    found = [
        (pods, port.number)
        for pods in sets.ports
        for port in ports
        if port.name == pods.port and port.protocol is pods.protocol and (local or not pods.local)
    ]
    return Memberships(sets.addresses, tuple(found))
