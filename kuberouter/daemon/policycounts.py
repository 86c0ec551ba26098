"""Packets and bytes per NetworkPolicy: what the kernel's chains have counted, told by the policies behind them.

Chains are shared: pods under policies of equal content are judged by one profile, whichever namespaces they are in. So
the count of a profile is shown for each policy that judges by it, and once more by the profile alone, where nothing is
counted twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

from kuberouter.compilers.policies.iptables.counters import profile_counts
from kuberouter.compilers.policies.nftables import names as nft_names
from kuberouter.compilers.policies.nftables.counters import profile_counts as nft_counts
from kuberouter.compilers.policies.rules import governs
from kuberouter.daemon.metrics import Series, series
from kuberouter.daemon.steady import steady
from kuberouter.drivers.iptables import Xtables
from kuberouter.engine.planner import Planner
from kuberouter.model.core import Family, ObjectRef, Row, Unavailable
from kuberouter.model.netfilter import Chain, ChainKey, Table
from kuberouter.model.nftables import TABLE_NAME, NftChain
from kuberouter.model.policy import Count, ProfileCount
from kuberouter.wire.command import run
from kuberouter.wire.text.nft import parse_listing

EVERY = 5.0
"""Shortest time in seconds between two looks at the kernel; scrapes in between are shown the last one."""
ACCEPTED, REFUSED, INVALID = "accepted", "refused", "invalid"
NONE = Count()


class Counters(Protocol):
    """Where counts come from: one per backend."""

    @property
    def row(self) -> type[Row]:
        """The type of its chains."""
        ...

    def key(self, family: Family, chain: str) -> Hashable:
        """The key of a chain."""
        ...

    def read(self) -> Iterable[ProfileCount]:
        """What all profiles have counted. Raises Unavailable when that cannot be told."""
        ...


class IptablesCounters:
    """Counts of the iptables backend, by `iptables-save -c`."""

    row: type[Row] = Chain

    def __init__(self, tools: Callable[[], Xtables | None], families: Sequence[Family]) -> None:
        self._tools = tools
        self._families = tuple(families)

    def key(self, family: Family, chain: str) -> Hashable:
        """A chain of the filter table."""
        return ChainKey(family, Table.FILTER, chain)

    def read(self) -> Iterator[ProfileCount]:
        """Read the filter table of each family."""
        tools = self._tools()
        if tools is None:
            raise Unavailable("it is not known yet which iptables is used")
        for family in self._families:
            yield from profile_counts(family, tools.counters(family, Table.FILTER))


class NftCounters:
    """Counts of the nftables backend, by `nft list table`."""

    row: type[Row] = NftChain

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = tuple(families)

    def key(self, family: Family, chain: str) -> Hashable:
        """A chain of our table."""
        return nft_names.chain_key(family, chain)

    def read(self) -> Iterator[ProfileCount]:
        """Read our table of each family, without what is in the sets."""
        for family in self._families:
            name = TABLE_NAME[nft_names.LAYER[family]]
            # -y: priorities as numbers; -t: the listing would otherwise hold every element.
            listed = run(("nft", "-y", "-t", "list", "table", nft_names.IP[family], name))
            if not listed.ok:
                raise Unavailable(f"nft list table {name} fails: {listed.errors.strip()}")
            yield from nft_counts(family, parse_listing(listed.output))


Labels = tuple[str, ...]
Totals = dict[Labels, Count]
Shares = dict[tuple[str, str], Count]
"""The counts of one profile by verdict and, for what was accepted, policy chain."""


class PolicyCounts:
    """Keeps totals, for chains come and go with the content of policies while their counters should not go back."""

    def __init__(self, planner: Planner, counters: Counters, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._planner = planner
        self._counters = counters
        self._clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._up = False
        self._seen: dict[str, Shares] = {}
        self._judges: set[Labels] = set()
        self._policies: Totals = {}
        self._profiles: Totals = {}

    def show(self) -> Iterator[Series]:
        """The metrics of all policies that judge on this node."""
        with self._lock:
            if self._clock() >= self._next:
                self._look()
                self._next = self._clock() + EVERY
            yield series("netpol_counters_up", int(self._up))
            for name, totals in (("netpol", self._policies), ("netpol_profile", self._profiles)):
                yield series(f"{name}_packets_total", {labels: count.packets for labels, count in totals.items()})
                yield series(f"{name}_bytes_total", {labels: count.bytes for labels, count in totals.items()})
            yield series("netpol_profile_info", dict.fromkeys(sorted(self._judges), 1))

    def _look(self) -> None:
        try:
            found = list(self._counters.read())
        except Unavailable:
            self._up = False
            return
        self._up = True
        seen: dict[str, Shares] = {}
        self._judges = set()
        policies: set[Labels] = set()
        profiles: set[Labels] = set()
        for profile in found:
            judges = steady(partial(self._judging, profile))
            self._judges |= {(profile.profile, profile.direction.value, ref.namespace, ref.name) for ref in judges}
            policies |= {_labels(ref, profile, verdict) for ref in judges for verdict in (ACCEPTED, REFUSED)}
            profiles |= {(profile.profile, profile.direction.value, v) for v in (ACCEPTED, REFUSED, INVALID)}
            self._add(profile, judges, seen)
        self._seen = seen
        # Both verdicts are there from the beginning, so that the first packet shows as an increase.
        self._policies = {labels: self._policies.get(labels, NONE) for labels in sorted(policies)}
        self._profiles = {labels: self._profiles.get(labels, NONE) for labels in sorted(profiles)}

    def _add(self, found: ProfileCount, judges: frozenset[ObjectRef], seen: dict[str, Shares]) -> None:
        """Add what a profile has counted since the last look to the totals of those whom it concerns."""
        shares: Shares = {(ACCEPTED, chain): count for chain, count in found.accepted}
        shares |= {(REFUSED, ""): found.refused, (INVALID, ""): found.invalid}
        before = self._seen.get(found.profile, {})
        if _packets(shares) < _packets(before):
            # The chain was written anew, so it began again from zero.
            before = {}
        # Rules are read one after the other while packets pass, so that of one of them may seem to have gone back.
        seen[found.profile] = {share: _most(before.get(share, NONE), count) for share, count in shares.items()}
        for (verdict, chain), count in seen[found.profile].items():
            more = _plus(count, before.get((verdict, chain), NONE), -1)
            _increase(self._profiles, (found.profile, found.direction.value, verdict), more)
            if verdict == INVALID:
                continue
            concerned = judges & steady(partial(self._authors, found.family, chain)) if chain else judges
            for ref in concerned:
                _increase(self._policies, _labels(ref, found, verdict), more)

    def _judging(self, found: ProfileCount) -> frozenset[ObjectRef]:
        """The policies by which a profile judges: those of its pods that govern the direction."""
        ledger, cluster = self._planner.ledgers[self._counters.row], self._planner.cluster
        return frozenset(
            ref
            for owner in ledger.owners(self._counters.key(found.family, found.profile))
            for ref in cluster.matches.policies_of(owner.subject)
            if (policy := cluster.policy(ref)) is not None and governs(policy, found.direction)
        )

    def _authors(self, family: Family, chain: str) -> frozenset[ObjectRef]:
        """The policies whose content a policy chain is."""
        ledger = self._planner.ledgers[self._counters.row]
        return frozenset(owner.subject for owner in ledger.owners(self._counters.key(family, chain)))


def _packets(shares: Shares) -> int:
    return sum(count.packets for count in shares.values())


def _most(one: Count, other: Count) -> Count:
    return Count(max(one.packets, other.packets), max(one.bytes, other.bytes))


def _plus(one: Count, other: Count, times: int = 1) -> Count:
    return Count(one.packets + times * other.packets, one.bytes + times * other.bytes)


def _increase(totals: Totals, labels: Labels, more: Count) -> None:
    totals[labels] = _plus(totals.get(labels, NONE), more)


def _labels(ref: ObjectRef, found: ProfileCount, verdict: str) -> Labels:
    return ref.namespace, ref.name, found.direction.value, verdict
