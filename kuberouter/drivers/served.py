"""Who serves where flows may be remembered wrongly: the destinations of UDP services, and of those by mark."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping

from kuberouter.model.core import Batch, L4Protocol
from kuberouter.model.ipvs import Destination, VirtualServiceKey

Serving = Mapping[VirtualServiceKey, Collection[tuple[bytes, int]]]
"""Packed addresses and ports of the destinations of each service; a service that has none is left out."""
Moved = Callable[[VirtualServiceKey, Serving], None]


def nobody(service: VirtualServiceKey, serving: Serving) -> None:
    """For those who do not want to know."""


class Served:
    """Follows what is read from and written to the kernel.

    Whoever wants to know is told of services that come into service or lose a destination: what connection tracking
    remembers of their flows may be wrong from then on. A destination that joins others changes nothing.
    """

    def __init__(self, moved: Moved = nobody) -> None:
        self._moved = moved
        self._serving: dict[VirtualServiceKey, set[tuple[bytes, int]]] = {}

    def read(self, rows: Iterable[Destination]) -> None:
        """The kernel holds these. That is no news: who wrote them has been told."""
        self._serving.clear()
        for row in rows:
            if concerns(row.key.service):
                self._serving.setdefault(row.key.service, set()).add((row.key.address, row.key.port))

    def wrote(self, batch: Batch[Destination], failed: Collection[Hashable]) -> None:
        """A batch was written but for what failed."""
        moved: dict[VirtualServiceKey, None] = {}
        for row in batch.add:
            service = row.key.service
            if concerns(service) and row.key not in failed:
                if service not in self._serving:
                    moved[service] = None
                self._serving.setdefault(service, set()).add((row.key.address, row.key.port))
        for row in batch.remove:
            service = row.key.service
            if concerns(service) and row.key not in failed:
                moved[service] = None
                serving = self._serving.get(service, set())
                serving.discard((row.key.address, row.key.port))
                if not serving:
                    self._serving.pop(service, None)
        for service in moved:
            self._moved(service, self._serving)


def concerns(service: VirtualServiceKey) -> bool:
    """Whether a service may be one of UDP: the key of one by mark does not tell."""
    return service.protocol is L4Protocol.UDP or service.mark != 0
