"""Tells in the log of packets that were dropped: a line per flow, a bounded number of lines, and what was left out.

Hears of packets on the thread of `sources/drops.py`; the engine's thread knows nothing of it. The kernel logs at most
ten packets a minute per rule, so this counts what is told, not what is dropped.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.drops import Drop, explain, names, protected, read_prefix
from kuberouter.daemon.metrics import Series, series
from kuberouter.daemon.steady import steady
from kuberouter.model.core import ObjectRef
from kuberouter.model.drops import LoggedPacket

log = logging.getLogger(__name__)

AGAIN = 300.0
"""Seconds in which a flow is told of once."""
MOST_FLOWS = 1024
"""Flows that are remembered as told."""
BURST = 20
REFILL = 2.0
"""Lines at once, and the seconds after which one more may follow."""
SUMMARY = 60.0
"""Shortest time in seconds between two lines about what was left out."""
MOST_PODS = 500
"""Pods with a metric of their own; the one that has been silent for longest makes room."""


class Limiter:
    """Decides which packets get a line: each flow once in `AGAIN` seconds, and all of them no more than `REFILL` lets.

    Times are in seconds on a clock that does not jump.
    """

    def __init__(self) -> None:
        self.untold = 0
        """Packets of flows that got no line, because there were too many."""
        self._told: OrderedDict[LoggedPacket, tuple[float, int]] = OrderedDict()
        """When a flow was told of, and its packets since; the oldest line first."""
        self._tokens = float(BURST)
        self._since = 0.0

    def hear(self, packet: LoggedPacket, now: float) -> int | None:
        """None if a packet gets no line; otherwise how many of its flow had none since the last."""
        at, held = self._told.get(packet, (-AGAIN, 0))
        if now - at < AGAIN:
            self._told[packet] = at, held + 1
            return None
        tokens = min(float(BURST), self._tokens + (now - self._since) / REFILL)
        self._since = now
        if tokens < 1:
            self._tokens = tokens
            self.untold += 1
            return None
        self._tokens = tokens - 1
        self._told.pop(packet, None)
        self._told[packet] = now, 0
        if len(self._told) > MOST_FLOWS:
            self._told.popitem(last=False)
        return held


class DropLog:
    """Hears of packets, writes lines, counts."""

    def __init__(
        self, view: Callable[[], ClusterView], *, per_pod: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`per_pod`: the metrics tell pods apart."""
        self._view = view
        self._per_pod = per_pod
        self._clock = clock
        self._limiter = Limiter()
        self._lost = 0
        self._unsaid = 0
        """Lost ones that no line has told of yet."""
        self._summed = float("-inf")
        self._drops: Counter[tuple[str, str]] = Counter()
        self._pods: OrderedDict[tuple[ObjectRef, str], int] = OrderedDict()

    def tell(self, packets: Sequence[LoggedPacket], lost: int) -> None:
        """Take in packets, and how many were lost before them; both may be nothing."""
        now = self._clock()
        lines: list[tuple[Drop, LoggedPacket, int]] = []
        for packet in packets:
            drop = read_prefix(packet.prefix)
            # The group is open to everybody's rules.
            if drop is None:
                continue
            self._count(drop, packet)
            held = self._limiter.hear(packet, now)
            if held is not None:
                lines.append((drop, packet, held))
        if lines:
            self._say(lines)
        self._lost += lost
        self._unsaid += lost
        if (self._limiter.untold or self._unsaid) and now - self._summed >= SUMMARY:
            self._sum_up()
            self._summed = now

    def _count(self, drop: Drop, packet: LoggedPacket) -> None:
        direction = drop.direction.value if drop.direction is not None else ""
        self._drops[direction, drop.why.value] += 1
        if not self._per_pod:
            return
        pod = steady(partial(protected, drop, packet, self._view()))
        if pod is not None:
            count = self._pods.pop((pod, direction), 0) + 1
            self._pods[pod, direction] = count
            if len(self._pods) > MOST_PODS:
                self._pods.popitem(last=False)

    def _say(self, lines: Sequence[tuple[Drop, LoggedPacket, int]]) -> None:
        view = self._view()
        addresses = frozenset(end for _, packet, _ in lines for end in (packet.source, packet.destination))
        who = steady(partial(names, view, addresses))
        for drop, packet, held in lines:
            said = steady(partial(explain, drop, packet, view, who))
            log.info("%s%s", said, f"; and {held} times since this was last said" if held else "")

    def _sum_up(self) -> None:
        parts = []
        if self._limiter.untold:
            parts.append(f"{self._limiter.untold} of further flows are not told of, for there are too many lines")
        if self._unsaid:
            parts.append(f"{self._unsaid} came faster than they are read")
        log.warning("Packets that were dropped: %s", "; ".join(parts))
        self._limiter.untold = self._unsaid = 0

    def show(self, *, reading: bool) -> Iterator[Series]:
        """The metrics; called from the threads of the web server. `reading`: packets reach us."""
        yield series("netpol_drop_log_up", int(reading))
        yield series("netpol_logged_drops_total", steady(lambda: dict(self._drops)))
        yield series("netpol_logged_drops_lost_total", self._lost)
        if self._per_pod:
            pods = steady(lambda: list(self._pods.items()))
            view = self._view()
            known = {(r.namespace, r.name, way): n for (r, way), n in pods if view.pod(r) is not None}
            yield series("netpol_pod_logged_drops_total", known)
