"""Local pod -> the link that it has to send through: nobody escapes policy under the address of somebody else.

What comes in from a pod's link with a source address that belongs to the cluster (a pod CIDR, a node) has to have the
pod's own. A pod that an egress policy selects may use no other address at all, while other pods may forward for
networks outside the cluster, as VPN gateways do. Pods that answer clients directly send from the service addresses that
they answer for, but only from the ports that are served there, and no more than answers.
"""

from __future__ import annotations

from ipaddress import ip_address

from kuberouter.cluster.selectors import enforceable
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.rules import governs
from kuberouter.compilers.policies.spelling import Spelling
from kuberouter.compilers.services.receivers import direct_frontends
from kuberouter.model.cluster import Pod, PodLink
from kuberouter.model.core import Fragment, ObjectRef, Owner, Prefix, Problem, Reason, Row, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings


def compile_cluster_addresses(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """One node's share of the addresses that belong to the cluster: its own and its pod CIDRs."""
    del settings
    found = view.node_object(key.subject.name)
    if found is None:
        return Fragment()
    addresses = (*found.internal_addresses, *found.external_addresses)
    prefixes = (*found.pod_cidrs, *(Prefix(address, len(address) * 8) for address in addresses))
    rows: list[Row] = []
    for family in node.enabled:
        rows += spell.cluster_addresses(family, [p for p in prefixes if p.family is family and p.length])
    return Fragment(tuple(rows))


def compile_binding(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """The rules about one pod's source addresses; nothing while its link is not known."""
    pod = view.pod(key.subject)
    if pod is None or not enforceable(pod) or pod.node != node.name:
        return Fragment()
    if disputed := view.bindings.disputed(pod):
        return _nobodys(pod, disputed, node, spell)
    link = view.bindings.link_of(pod)
    if link is None:
        return Fragment()
    selecting = (view.policy(ref) for ref in view.matches.policies_of(pod.ref))
    confined = any(policy is not None and governs(policy, Direction.EGRESS) for policy in selecting)
    rows: list[Row] = []
    for family in node.enabled:
        own = next((address for address in pod.addresses if family_of(address) is family), None)
        rows += spell.guard(family, link, own, confined=confined)
        if own is not None and settings.proxy is not None and not pod.host_network:
            for frontend in direct_frontends(own, view, node=node, settings=settings.proxy):
                place = frontend.key
                rows += spell.answers(family, link, place.address, place.protocol, place.port)
    return Fragment(tuple(rows))


def _nobodys(pod: Pod, links: tuple[PodLink, ...], node: NodeFacts, spell: Spelling) -> Fragment:
    """The rules about links of which one has taken the address of the other: none of them has any of its own."""
    rows = [row for family in node.enabled for link in links for row in spell.guard(family, link, None, confined=True)]
    names, address = " and ".join(link.ref.name for link in links), ip_address(pod.addresses[0])
    text = f"{names} lead to the same address as {pod.ref.namespace}/{pod.ref.name} ({address}): none of them may send"
    return Fragment(tuple(rows), (Problem(ObjectRef("Node", "", node.name), "links", Reason.CONFLICT, text),))
