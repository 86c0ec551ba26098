"""Pod of this node -> the service addresses from which it answers clients directly.

Every endpoint receives, whether it is ready or not: it has to by the time that it is, and for as long as it drains.
"""

from __future__ import annotations

from collections.abc import Iterable

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.services.frontends import Frontend, frontends
from kuberouter.model.core import Fragment, Owner, Rank, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.receivers import PodReceiver, PodReceiverKey
from kuberouter.model.settings import ProxySettings


def direct_frontends(
    address: bytes, view: ClusterView, *, node: NodeFacts, settings: ProxySettings
) -> Iterable[Frontend]:
    """The places for which the pod of this node with this address answers directly."""
    family = family_of(address)
    for ref in view.receivers.services(address):
        service = view.service(ref)
        if service is not None:
            found = frontends(service, view, node, settings)
            yield from (each for each in found if each.mark and each.key.family is family)


def compile_receivers(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """The receivers of one pod; none as long as none of its containers runs, for there is no other way in."""
    pod = view.local_pod(key.subject)
    if pod is None or pod.node != node.name or pod.host_network or not pod.container:
        return Fragment()
    rows = {
        PodReceiver(PodReceiverKey(address, each.key.address), pod.container): None
        for address in pod.addresses
        for each in direct_frontends(address, view, node=node, settings=settings)
    }
    return Fragment(tuple(rows), rank=Rank())
