"""Connections, packets and bytes per Service: what IPVS counts, told by the Services behind its virtual services.

One dump per scrape, nothing in between. A virtual service is known by its key: the ledger says whose it is, and of one
that goes by a firewall mark the index of marks says which address and port it stands for. So it is complete for direct
server return, for node ports on any address and in both families, and for IPv6 however it is spelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from operator import add

from kuberouter.cluster.allocations import ANYWHERE
from kuberouter.daemon.metrics import Series, series
from kuberouter.engine.planner import Planner
from kuberouter.model.cluster import MarkUse
from kuberouter.model.core import Family, Unavailable
from kuberouter.model.ipvs import ServiceCount, Statistics, VirtualService, VirtualServiceKey
from kuberouter.model.meter import Meter

Labels = tuple[str, str, str, str, str]
"""Namespace, name, address, protocol and port."""
Parts = dict[VirtualServiceKey, Statistics]
NAMES = (
    "service_total_connections",
    "service_packets_in",
    "service_packets_out",
    "service_bytes_in",
    "service_bytes_out",
    "service_cps",
    "service_pps_in",
    "service_pps_out",
    "service_bps_in",
    "service_bps_out",
)
"""The metrics of `Statistics`, field by field; the first `COUNTERS` only ever grow."""
COUNTERS = 5
NONE = Statistics()
EXPORT = "IPVS statistics"


class ServiceCounts:
    """The metrics of Services."""

    def __init__(
        self,
        planner: Planner,
        read: Callable[[], Iterable[ServiceCount]],
        *,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` tells of all virtual services, or raises Unavailable; `meter` hears how long a look took."""
        self._planner = planner
        self._read = read
        self._meter = meter
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[Labels, Parts] = {}
        self._ended: dict[Labels, Statistics] = {}
        """What was counted for labels by virtual services that are there no more, or have begun anew."""

    def show(self) -> list[Series]:
        """The metrics of all Services served here; none where IPVS cannot be read."""
        with self._lock:
            began = self._clock()
            try:
                found = list(self._read())
            except Unavailable:
                return []
            totals = self._totals(found)
            shown = [series("controller_ipvs_services", len(found))]
            for field, name in enumerate(NAMES):
                shown.append(series(name, {labels: total[field] for labels, total in totals.items()}))
            self._meter.observe(EXPORT, self._clock() - began)
            return shown

    def _totals(self, found: Iterable[ServiceCount]) -> dict[Labels, Statistics]:
        """Sums by labels: an address may be served by several virtual services, told apart by marks."""
        seen: dict[Labels, Parts] = {}
        for key, counted in found:
            labels = self._labels(key) if key is not None else None
            if key is not None and labels is not None:
                seen.setdefault(labels, {})[key] = counted
        self._ended = {labels: ended for labels in seen if any(ended := self._ending(labels, seen[labels]))}
        self._seen = seen
        return {labels: _sum(self._ended.get(labels, NONE), *parts.values()) for labels, parts in seen.items()}

    def _ending(self, labels: Labels, parts: Parts) -> Statistics:
        """What is to be added so that counters go on where one of several virtual services goes or begins anew."""
        ended = self._ended.get(labels, NONE)
        for key, last in self._seen.get(labels, {}).items():
            now = parts.get(key, NONE)
            if any(new < old for new, old in zip(now[:COUNTERS], last[:COUNTERS], strict=True)):
                ended = _sum(ended, Statistics(*last[:COUNTERS]))
        return ended

    def _labels(self, key: VirtualServiceKey) -> Labels | None:
        """Whose virtual service it is and what for; None for those of others, and those that are about to go.

        The engine may be at work meanwhile; each of these looks is a single one.
        """
        owner = self._planner.ledgers[VirtualService].holder(key)
        if owner is None:
            return None
        address, protocol, port = key.address, key.protocol, key.port
        if key.mark:
            place = self._planner.cluster.marks.place(key.mark)
            if place is None:
                return None
            address, protocol, port = place.address, place.protocol, place.port
            if place.use is MarkUse.INSIDE and address == ANYWHERE:
                # One mark for the node port at whatever address of the node.
                address = bytes(4 if key.family is Family.IPV4 else 16)
        return owner.subject.namespace, owner.subject.name, str(ip_address(address)), protocol.name.lower(), str(port)


def _sum(*parts: Statistics) -> Statistics:
    if len(parts) == 2 and parts[0] is NONE:
        return parts[1]
    total: tuple[int, ...] = NONE
    for part in parts:
        total = tuple(map(add, total, part))
    return Statistics(*total)
