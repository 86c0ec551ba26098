"""What a backend has to say: the compilers decide what is meant, a backend spells it as rows.

A backend is a package with these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from kuberouter.model.cluster import NetworkPolicy, PodLink
from kuberouter.model.core import Family, KeyValue, L4Protocol, Prefix, Row
from kuberouter.model.policy import Direction, PodSet
from kuberouter.model.settings import FirewallSettings


class Place(NamedTuple):
    """Who judges one direction of a local pod in one family.

    `policies` are those that govern the direction; without any the pod is free there, and only said to be known.
    """

    family: Family
    direction: Direction
    addresses: tuple[bytes, ...]
    policies: tuple[NetworkPolicy, ...]


class Memberships(KeyValue, frozen=True, gc=False, cache_hash=True):
    """What a pod is in: sets of addresses, and sets of named ports with the number that it calls by the name."""

    sets: tuple[PodSet, ...]
    ports: tuple[tuple[PodSet, int], ...]


class Spelling(Protocol):
    """A backend."""

    def named_set(self, family: Family, pods: PodSet) -> Row:
        """The set in which pods, or their named ports, are kept."""

    def members(self, family: Family, memberships: Memberships, address: bytes) -> Iterable[Row]:
        """A pod's entries in what it is in."""

    def policy(self, policy: NetworkPolicy, direction: Direction, family: Family) -> Iterable[Row]:
        """What a policy allows in one direction, with the sets of its ipBlocks."""

    def place(self, place: Place, settings: FirewallSettings) -> Iterable[Row]:
        """A pod's way to its verdict."""

    def cluster_addresses(self, family: Family, prefixes: Sequence[Prefix]) -> Iterable[Row]:
        """Addresses that no pod may borrow."""

    def guard(self, family: Family, link: PodLink, own: bytes | None, *, confined: bool) -> Iterable[Row]:
        """What comes in from a link without the pod's own address is dropped: if `confined` all of it, else what
        borrows an address of the cluster."""

    def answers(self, family: Family, link: PodLink, address: bytes, protocol: L4Protocol, port: int) -> Iterable[Row]:
        """What comes in from a link as an answer of a service is let through. What opens a TCP flow is none."""

    def node_ports(self, family: Family, ports: Iterable[tuple[L4Protocol, int]]) -> Iterable[Row]:
        """Ports of the node that the proxy serves."""

    def cluster_ips(self, family: Family, served: Iterable[tuple[bytes, L4Protocol, int]]) -> Iterable[Row]:
        """Cluster IPs with a port that the proxy serves, where no range of the settings holds them."""

    def fixed(self, family: Family, settings: FirewallSettings) -> Iterable[Row]:
        """What stands without any policy."""

    def known_only(self, family: Family, prefixes: Iterable[Prefix]) -> Iterable[Row]:
        """Addresses of these blocks that nobody has placed are cut off."""
