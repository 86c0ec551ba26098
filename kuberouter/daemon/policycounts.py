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
from typing import NamedTuple, Protocol

from kuberouter.compilers.policies.iptables.counters import profile_counts
from kuberouter.compilers.policies.rules import governs
from kuberouter.daemon.metrics import Series, series
from kuberouter.daemon.telemetry import steady
from kuberouter.drivers.iptables import Xtables
from kuberouter.engine.planner import Planner
from kuberouter.model.core import Family, ObjectRef, Row, Unavailable
from kuberouter.model.netfilter import Chain, ChainKey, Table
from kuberouter.model.policy import Count, ProfileCount

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


class _Place(NamedTuple):
    """Where something is counted: a profile and a policy chain in it, or a verdict."""

    profile: str
    what: str


Labels = tuple[str, ...]
Totals = dict[Labels, Count]


class PolicyCounts:
    """Keeps totals, for chains come and go with the content of policies while their counters should not go back."""

    def __init__(self, planner: Planner, counters: Counters, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._planner = planner
        self._counters = counters
        self._clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._up = False
        self._seen: dict[_Place, Count] = {}
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
        seen: dict[_Place, Count] = {}
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

    def _add(self, found: ProfileCount, judges: frozenset[ObjectRef], seen: dict[_Place, Count]) -> None:
        """Add what a profile has counted since the last look to the totals of those whom it concerns."""
        shares = [(chain, ACCEPTED, count) for chain, count in found.accepted]
        shares += [("", REFUSED, found.refused), ("", INVALID, found.invalid)]
        for chain, verdict, count in shares:
            place = _Place(found.profile, chain or verdict)
            seen[place] = count
            more = _since(self._seen.get(place, NONE), count)
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


def _since(before: Count, now: Count) -> Count:
    """What was added; a chain that was written anew began again from zero."""
    return now if now.packets < before.packets else Count(now.packets - before.packets, now.bytes - before.bytes)


def _increase(totals: Totals, labels: Labels, more: Count) -> None:
    before = totals.get(labels, NONE)
    totals[labels] = Count(before.packets + more.packets, before.bytes + more.bytes)


def _labels(ref: ObjectRef, found: ProfileCount, verdict: str) -> Labels:
    return ref.namespace, ref.name, found.direction.value, verdict
