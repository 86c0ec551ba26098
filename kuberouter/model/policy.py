"""Network policy before it is spelled in a tool's language: which pods a set holds, and what one policy allows.

A policy is split by direction. What one direction allows is a set of allowances, each one peer and one port; there is
no order and no denial among them, so equal content is equal meaning.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from kuberouter.model.cluster import Selector
from kuberouter.model.core import Family, KeyValue, L4Protocol, Prefix


class Direction(enum.StrEnum):
    """The direction of a rule as its pod sees it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Use(enum.StrEnum):
    """Which end of a packet a set is compared with."""

    SOURCE = "src"
    DESTINATION = "dst"


class PodScope(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Which pods: those of one namespace, or of the namespaces that a selector picks, narrowed by a pod selector.

    With both `namespace` empty and `namespaces` None it is every namespace.
    """

    namespace: str = ""
    namespaces: Selector | None = None
    pods: Selector = Selector()


class PodSet(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A set of pod addresses, kept up to date by pod: the addresses of a scope, or with `port` its named ports.

    With `local` only pods of this node count; a port of an ingress rule is always one of a pod that is protected here.
    """

    scope: PodScope
    use: Use
    port: str = ""
    protocol: L4Protocol | None = None
    local: bool = False


class PodSets(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Sets that the same pods are in; in those of named ports only as far as they have such a port."""

    addresses: tuple[PodSet, ...] = ()
    ports: tuple[PodSet, ...] = ()


class PortSpan(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Ports of one protocol as disjoint inclusive intervals in order; none at all is the whole protocol."""

    protocol: L4Protocol
    intervals: tuple[tuple[int, int], ...] = ()


class Allowance(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Traffic that is allowed: with this peer (None: anybody) on these ports (None: everything).

    A peer is a set of pods or a tuple of disjoint prefixes; ports are numbers or a set of named ports.
    """

    peer: PodSet | tuple[Prefix, ...] | None = None
    ports: PortSpan | PodSet | None = None


Body = frozenset[Allowance]
"""What one direction of a policy allows in one address family; empty allows nothing."""


class Count(NamedTuple):
    """Packets, and their bytes."""

    packets: int = 0
    bytes: int = 0


class ProfileCount(NamedTuple):
    """What the chain of a profile has counted since the kernel has it.

    `accepted` has what each policy chain let pass, by its name; a packet that several would allow counts for the first
    of them. `invalid` are packets that connection tracking makes nothing of.
    """

    family: Family
    profile: str
    direction: Direction
    accepted: tuple[tuple[str, Count], ...]
    refused: Count
    invalid: Count
