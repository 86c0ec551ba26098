"""The NetworkPolicy semantics: one direction of one policy in one family becomes a set of allowances.

Reference: networking.k8s.io/v1 NetworkPolicySpec. A rule allows every combination of its peers and its ports; an empty
list of either is everything; a peer or port that comes down to nothing in a family contributes nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from kuberouter.cluster.selectors import peer_scope, peer_set, port_set
from kuberouter.model.cluster import IpBlock, NetworkPolicy, PolicyPort, PolicyRule
from kuberouter.model.core import Family, L4Protocol, Prefix
from kuberouter.model.policy import Allowance, Body, Direction, PodSet, PortSpan

Interval = tuple[int, int]


def governs(policy: NetworkPolicy, direction: Direction) -> bool:
    """Whether a policy isolates the pods that it selects in a direction."""
    return (policy.ingress if direction is Direction.INGRESS else policy.egress) is not None


class _Term(NamedTuple):
    """What one rule names, whatever the family."""

    peers: tuple[PodSet | None, ...]
    blocks: tuple[IpBlock, ...]
    ports: tuple[PortSpan | PodSet | None, ...]


@lru_cache(maxsize=4)
def body(policy: NetworkPolicy, direction: Direction, family: Family) -> Body | None:
    """What a policy allows in one direction, or None when it does not govern that direction.

    A policy with problems allows nothing: the pods it selects are closed until it is mended. Who spells a policy asks
    for the same body again and again, and then for the next one.
    """
    if not governs(policy, direction):
        return None
    allowed: list[Allowance] = []
    for peers, blocks, ports in _terms(policy, direction):
        found = (*peers, prefixes) if blocks and (prefixes := _covered(blocks, family)) else peers
        allowed += [Allowance(peer, port) for peer in found for port in ports]
    return frozenset(allowed)


def prefix_peers(policy: NetworkPolicy, direction: Direction, family: Family) -> list[tuple[Prefix, ...]]:
    """The peers of `body` that are prefixes: of each rule what its ipBlocks come down to."""
    rules = policy.ingress if direction is Direction.INGRESS else policy.egress
    if policy.problems or not rules:
        return []
    found = [_covered(blocks, family) for rule in rules if (blocks := _blocks(rule))]
    return [prefixes for prefixes in found if prefixes]


@lru_cache(maxsize=4)
def _terms(policy: NetworkPolicy, direction: Direction) -> tuple[_Term, ...]:
    """What the rules name; each family asks for it. Policies with problems have no rules."""
    rules = policy.ingress if direction is Direction.INGRESS else policy.egress
    return () if policy.problems else tuple([_term(policy, rule, direction) for rule in rules or ()])


def _term(policy: NetworkPolicy, rule: PolicyRule, direction: Direction) -> _Term:
    scopes = [peer_scope(policy, peer) for peer in rule.peers]
    pods = tuple([peer_set(scope, direction) for scope in scopes if scope is not None])
    return _Term(pods if rule.peers else (None,), _blocks(rule), tuple(_ports(rule.ports, direction)) or (None,))


def _blocks(rule: PolicyRule) -> tuple[IpBlock, ...]:
    return tuple([peer.block for peer in rule.peers if peer.block is not None])


@lru_cache(maxsize=256)
def _covered(blocks: tuple[IpBlock, ...], family: Family) -> tuple[Prefix, ...]:
    """The fewest prefixes that cover these blocks. Many rules name the same ones: the world without the cluster."""
    intervals: list[Interval] = []
    for block in blocks:
        if block.prefix.family is family:
            intervals += subtract(span(block.prefix), [span(e) for e in block.excepts if e.family is family])
    return tuple([p for interval in union(intervals) for p in prefixes_of(interval, family)])


def _ports(ports: Iterable[PolicyPort], direction: Direction) -> Iterator[PortSpan | PodSet]:
    numbers: dict[L4Protocol, list[Interval]] = {}
    whole: set[L4Protocol] = set()
    for port in ports:
        if port.name:
            yield port_set(port.name, port.protocol, direction)
        elif port.number:
            numbers.setdefault(port.protocol, []).append((port.number, port.end or port.number))
        else:
            whole.add(port.protocol)
    for protocol in sorted({*whole, *numbers}):
        yield PortSpan(protocol, () if protocol in whole else tuple(union(numbers[protocol])))


# --- algebra of intervals: exceptions belong to their own block, and a set holds no overlapping prefixes -------------


def span(prefix: Prefix) -> Interval:
    """First and last address of a prefix as numbers."""
    first = int.from_bytes(prefix.address, "big")
    return first, first + (1 << (len(prefix.address) * 8 - prefix.length)) - 1


def subtract(interval: Interval, holes: Iterable[Interval]) -> list[Interval]:
    """What is left of an interval outside all holes, in order."""
    left: list[Interval] = []
    start, last = interval
    for first, end in sorted(holes):
        if end < start:
            continue
        if first > last:
            break
        if first > start:
            left.append((start, first - 1))
        start = end + 1
    if start <= last:
        left.append((start, last))
    return left


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same numbers as disjoint intervals in order, adjacent ones joined."""
    joined: list[Interval] = []
    for first, last in sorted(intervals):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def prefixes_of(interval: Interval, family: Family) -> Iterator[Prefix]:
    """The fewest prefixes that cover exactly an interval of addresses."""
    size = 4 if family is Family.IPV4 else 16
    first, last = interval
    while first <= last:
        # The largest block that both starts on its own boundary and ends inside the interval.
        bits = (first & -first).bit_length() - 1 if first else size * 8
        bits = min(bits, (last - first + 1).bit_length() - 1)
        yield Prefix(first.to_bytes(size, "big"), size * 8 - bits)
        first += 1 << bits
