"""Label selectors (meta/v1 LabelSelector) and the sets of pods that a NetworkPolicy speaks of."""

from __future__ import annotations

from collections.abc import Mapping

from kuberouter.model.cluster import NetworkPolicy, Operator, Pod, PolicyPeer, Requirement, Selector
from kuberouter.model.core import L4Protocol
from kuberouter.model.policy import Direction, PodScope, PodSet, Use

ANY = Selector()
EVERYWHERE = PodScope()


def holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Whether labels meet one requirement. NotIn and DoesNotExist are met by an absent key."""
    operator = requirement.operator
    if operator is Operator.IN:
        return labels.get(requirement.key) in requirement.values
    if operator is Operator.NOT_IN:
        return labels.get(requirement.key) not in requirement.values
    return (requirement.key in labels) is (operator is Operator.EXISTS)


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet every requirement of a selector."""
    for requirement in selector.requirements:  # noqa: SIM110 - asked a hundred thousand times at a start
        if not holds(requirement, labels):
            return False
    return True


def enforceable(pod: Pod) -> bool:
    """Whether a pod can be target or peer of a policy: it runs, has an address, and that address is its own."""
    return bool(pod.addresses) and not pod.finished and not pod.host_network


def target(policy: NetworkPolicy) -> PodScope:
    """The pods that a policy selects."""
    return PodScope(policy.ref.namespace, None, policy.pods)


def peer_scope(policy: NetworkPolicy, peer: PolicyPeer) -> PodScope | None:
    """The pods that a peer means, or None for an ipBlock. Without namespaceSelector: pods of the policy's namespace."""
    if peer.block is not None:
        return None
    if peer.namespaces is None:
        return PodScope(policy.ref.namespace, None, peer.pods or ANY)
    return PodScope("", peer.namespaces, peer.pods or ANY)


def peer_set(scope: PodScope, direction: Direction) -> PodSet:
    """The set of the pods that may speak (ingress) or be spoken to (egress)."""
    return PodSet(scope, Use.SOURCE if direction is Direction.INGRESS else Use.DESTINATION)


def pod_sets(policy: NetworkPolicy) -> tuple[PodSet, ...]:
    """Every set of pods that the rules of a policy refer to, once each. A policy with problems has no rules."""
    found: dict[PodSet, None] = {}
    if policy.problems:
        return ()
    for direction, rules in ((Direction.INGRESS, policy.ingress), (Direction.EGRESS, policy.egress)):
        for rule in rules or ():
            scopes = (peer_scope(policy, peer) for peer in rule.peers)
            found.update((peer_set(scope, direction), None) for scope in scopes if scope is not None)
            found.update((port_set(port.name, port.protocol, direction), None) for port in rule.ports if port.name)
    return tuple(found)


def port_set(name: str, protocol: L4Protocol, direction: Direction) -> PodSet:
    """The set of (address, port) pairs that a named port stands for: each pod's own number, nobody else's.

    One set serves every rule with that name, whatever its peers, because rules match peers by a set of their own.
    """
    return PodSet(EVERYWHERE, Use.DESTINATION, name, protocol, local=direction is Direction.INGRESS)
