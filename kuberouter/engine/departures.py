"""From claims that end to `Departed` objects: an endpoint that goes keeps its connections for a while.

What a destination was until now is known to the ledger's changes only, so the planner shows them here after each step
and takes in what comes of it. A departure ends in one of four ways: its connections have ended (the source
`connections` says so), its time is over, the destination is wanted again, or its virtual service is gone or cannot
drain any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from kuberouter.cluster.departures import DepartureIndex, depart
from kuberouter.cluster.view import ClusterView
from kuberouter.engine.ledger import Ledger
from kuberouter.model.cluster import Departed
from kuberouter.model.core import L4Protocol, Row
from kuberouter.model.events import Deleted, Event, Synced, Upserted
from kuberouter.model.ipvs import Destination, VirtualService, VirtualServiceKey, can_drain

INHERITED = "drains"
"""Name under which the planner hears that what was draining before this process is taken over."""
LOOK = 1.0
"""Seconds between looks at the time that is left."""


class Departures:
    """Follows one proxy's destinations. Called from the engine's thread only."""

    def __init__(self, period: float, needs: Iterable[str] = ()) -> None:
        """`period` is how many seconds a destination drains at most that no known pod stands behind.

        `needs` are the sources that must be in sync before it is known which destinations are wanted.
        """
        self._period = period
        self._needs = frozenset(needs)
        self._found: list[Destination] | None = None
        """What the kernel held without weight when this process first read it, until it is taken over."""
        self._index: DepartureIndex | None = None
        self._next_look = 0.0
        self.started = 0
        self.ended: Counter[str] = Counter()
        """Departures that ended here, by the way in which they did."""

    def draining(self) -> tuple[Departed, ...]:
        """What drains now. May be asked from any thread."""
        return self._index.all() if self._index is not None else ()

    def inherit(self, rows: Iterable[Destination]) -> None:
        """The kernel was read for the first time, and these are the destinations of ours that it holds."""
        self._found = [row for row in rows if not row.weight]

    def follow(
        self,
        ledgers: Mapping[type[Row], Ledger[Any]],
        view: ClusterView,
        *,
        synced: Collection[str],
        settled: bool,
        now: float,
    ) -> list[Event]:
        """What follows from a step; `now` is in seconds of the engine's clock."""
        events: list[Event] = []
        self._index = view.departures
        destinations, services = ledgers[Destination], ledgers[VirtualService]
        events += self._released(destinations.changed(), destinations, services, view, now)
        if self._found is not None and settled and self._needs.issubset(synced):
            events += self._take_over(self._found, destinations, services, view, now)
            self._found = None
        if view.departures:
            events += self._withdrawn(services.changed(), services, view)
            events += self._overdue(view, now)
        return events

    def _released(
        self,
        changed: Mapping[Any, Row | None],
        destinations: Ledger[Destination],
        services: Ledger[VirtualService],
        view: ClusterView,
        now: float,
    ) -> Iterator[Event]:
        any_departed = bool(view.departures)
        for key, before in changed.items():
            if before is None and not any_departed:
                # At a start that is all of them.
                continue
            row = destinations.winner(key)
            if row is None:
                if isinstance(before, Destination) and before.weight and _drains(before.key.service, services, view):
                    self.started += 1
                    yield Upserted(depart(before, now))
            elif any_departed and row.weight and (departed := view.departures.at(key)) is not None:
                self.ended["returned"] += 1
                yield Deleted(departed.ref)

    def _take_over(
        self,
        found: list[Destination],
        destinations: Ledger[Destination],
        services: Ledger[VirtualService],
        view: ClusterView,
        now: float,
    ) -> Iterator[Event]:
        """How long they have been draining already nobody knows: their time begins anew."""
        for row in found:
            if destinations.winner(row.key) is None and _drains(row.key.service, services, view):
                self.started += 1
                yield Upserted(depart(row, now))
        yield Synced(INHERITED)

    def _withdrawn(
        self, changed: Iterable[Any], services: Ledger[VirtualService], view: ClusterView
    ) -> Iterator[Event]:
        for key in changed:
            if not _drains(key, services, view):
                for departed in view.departures.of(key):
                    self.ended["withdrawn"] += 1
                    yield Deleted(departed.ref)

    def _overdue(self, view: ClusterView, now: float) -> Iterator[Event]:
        """A pod's own grace period counts as long as the pod is known."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        for departed in view.departures.all():
            grace = view.graces.at(departed.key.address)
            if now >= departed.since + (self._period if grace is None else grace):
                self.ended["deadline"] += 1
                yield Deleted(departed.ref)


def _drains(key: VirtualServiceKey, services: Ledger[VirtualService], view: ClusterView) -> bool:
    """Whether a virtual service stays and can let destinations drain. One by mark does not tell the protocol itself."""
    service = services.winner(key)
    place = view.marks.place(key.mark) if key.mark else None
    if place is not None and place.protocol is L4Protocol.UDP:
        return False
    return service is not None and can_drain(service)
