"""A logged packet in words: whose it was, and why the firewall dropped it.

The rules say by their prefix which chain dropped and, where that is known, in which direction the pod sees it. Whose
the addresses are, and which policies select a pod, is said as it is known by now.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kuberouter.cluster.derived import ANNOTATION_POLICY
from kuberouter.cluster.selectors import enforceable
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.names import GUARD_CHAIN, INVALID_CHAIN, PROFILE_PREFIX, UNKNOWN_CHAIN
from kuberouter.compilers.policies.rules import governs
from kuberouter.decode.scalars import show_address
from kuberouter.model.cluster import NetworkPolicy
from kuberouter.model.core import L4Protocol, ObjectRef
from kuberouter.model.drops import LoggedPacket
from kuberouter.model.policy import Direction

MOST_POLICIES = 10
"""Policies that a line names; of further ones it says how many they are."""
PROTOCOL = {1: "ICMP", 58: "ICMPv6"} | {protocol.value: protocol.name for protocol in L4Protocol}
WITH_PORTS = frozenset(protocol.value for protocol in L4Protocol)


class Why(enum.StrEnum):
    """What a packet was dropped for."""

    POLICY = "policy"
    """Policies select the pod, and none allows it."""
    SOURCE = "source"
    """Its source address is not that of whom it comes from."""
    INVALID = "invalid"
    """It belongs to no flow and can begin none."""
    UNKNOWN = "unknown"
    """It is to or from an address that is nobody's yet."""


class Drop(NamedTuple):
    """What a prefix says. Without a direction it is not told which end is the pod."""

    why: Why
    direction: Direction | None
    chain: str


def read_prefix(prefix: str) -> Drop | None:
    """What a prefix says, or None if it is not from a rule of ours."""
    chain, _, told = prefix.partition(" ")
    direction = _DIRECTION.get(told)
    if chain.startswith(PROFILE_PREFIX) and direction is not None:
        return Drop(Why.POLICY, direction, chain)
    why = _CHAINS.get(prefix)
    return Drop(why, direction, chain) if why is not None else None


_DIRECTION: Mapping[str, Direction] = {direction.value: direction for direction in Direction}
_CHAINS = {
    f"{GUARD_CHAIN} {Direction.EGRESS.value}": Why.SOURCE,
    INVALID_CHAIN: Why.INVALID,
    UNKNOWN_CHAIN: Why.UNKNOWN,
}


def protected(drop: Drop, packet: LoggedPacket, view: ClusterView) -> ObjectRef | None:
    """The pod of this node at whose door the packet was dropped, if it is known."""
    if drop.why is Why.SOURCE:
        return _behind(packet.link, view)
    if drop.direction is None:
        return None
    return next(iter(view.bindings.pods_at(_end(drop.direction, packet))), None)


def _end(direction: Direction, packet: LoggedPacket) -> bytes:
    """The address of the pod that a direction is told for."""
    return packet.destination if direction is Direction.INGRESS else packet.source


def _behind(link: str, view: ClusterView) -> ObjectRef | None:
    """The pod that a link leads to."""
    found = view.pod_link(ObjectRef("PodLink", "", link)) if link else None
    for address in found.addresses if found is not None else ():
        for ref in view.bindings.pods_at(address):
            pod = view.pod(ref)
            if pod is not None and view.bindings.link_of(pod) == found:
                return ref
    return None


def names(view: ClusterView, addresses: frozenset[bytes]) -> dict[bytes, str]:
    """Whose addresses are, as far as they are of pods or nodes. Walks over all of these once."""
    found: dict[bytes, str] = {}
    for node in list(view.nodes()):
        for address in (*node.internal_addresses, *node.external_addresses):
            if address in addresses:
                found[address] = f"node {node.ref.name}"
    for pod in list(view.pods()):
        # Nearly no pod has one of them.
        if not addresses.isdisjoint(pod.addresses) and enforceable(pod):
            found |= {address: _name(pod.ref) for address in pod.addresses if address in addresses}
    return found


def explain(drop: Drop, packet: LoggedPacket, view: ClusterView, who: Mapping[bytes, str]) -> str:
    """The sentence about a packet, whose object comes first; `who` has the names of its addresses (`names`)."""
    pod = protected(drop, packet, view)
    if drop.why is Why.POLICY and drop.direction is not None:
        way = _way(drop.direction, packet, who)
        subject = (
            str(pod) if pod is not None else f"{show_address(_end(drop.direction, packet))}, which is no pod here now"
        )
        return f"{subject}: {drop.direction.value} {way} was refused: {_reason(drop, pod, view)} ({drop.chain})"
    to = f"to {_at(packet.destination, who)} {_how(packet)}"
    if drop.why is Why.SOURCE:
        subject = str(pod) if pod is not None else f"Link {packet.link or '?'}"
        whose = "that address is not the pod's own" if pod is not None else "nobody behind it has that address"
        return f"{subject}: what it sent from {_at(packet.source, who)} {to} was dropped: {whose}"
    why = "it belongs to no flow and can begin none"
    if drop.why is Why.UNKNOWN:
        why = "one of these addresses is of no pod that the API has told of (--netpol-default-deny)"
    return f"{_at(packet.source, who)}: a packet {to} was dropped: {why}"


def _way(direction: Direction, packet: LoggedPacket, who: Mapping[bytes, str]) -> str:
    """From where, or to where, and how."""
    if direction is Direction.EGRESS:
        return f"to {_at(packet.destination, who)} {_how(packet)}"
    to = "to " if packet.port else ""
    return f"from {_at(packet.source, who)} {to}{_how(packet)}"


def _how(packet: LoggedPacket) -> str:
    protocol = PROTOCOL.get(packet.protocol, f"IP protocol {packet.protocol}")
    return f"port {packet.port}/{protocol}" if packet.port else f"by {protocol}"


def _at(address: bytes, who: Mapping[bytes, str]) -> str:
    name = who.get(address, "")
    return f"{name} ({show_address(address)})" if name else show_address(address)


def _reason(drop: Drop, pod: ObjectRef | None, view: ClusterView) -> str:
    if pod is None:
        return "no rule of the policies that select it allows it"
    found = sorted(_governing(pod, drop.direction, view), key=lambda policy: _name(policy.ref))
    if not found:
        return "no rule of policies that have changed by now allows it"
    listed = ", ".join(_policy(policy) for policy in found[:MOST_POLICIES])
    more = f" and {len(found) - MOST_POLICIES} more" if len(found) > MOST_POLICIES else ""
    return f"no rule of {'policy' if len(found) == 1 else 'policies'} {listed}{more} allows it"


def _governing(pod: ObjectRef, direction: Direction | None, view: ClusterView) -> Iterable[NetworkPolicy]:
    policies = (view.policy(ref) for ref in view.matches.policies_of(pod))
    return [policy for policy in policies if policy is not None and direction and governs(policy, direction)]


def _policy(policy: NetworkPolicy) -> str:
    if policy.ref.name == ANNOTATION_POLICY:
        return f"{_name(policy.ref)} (an annotation of the namespace)"
    return f"{_name(policy.ref)} (not understood)" if policy.problems else _name(policy.ref)


def _name(ref: ObjectRef) -> str:
    return f"{ref.namespace}/{ref.name}"
