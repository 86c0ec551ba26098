"""Who serves where flows may be remembered wrongly: the destinations of UDP services, and of those by mark."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping

from kuberouter.model.core import Batch, L4Protocol
from kuberouter.model.ipvs import Destination, VirtualServiceKey

Serving = Mapping[VirtualServiceKey, Collection[tuple[bytes, int]]]
"""Packed addresses and ports of the destinations of each service; a service that has none is left out."""
Moved = Callable[[VirtualServiceKey, Serving, Collection[bytes]], None]
"""Told of a service, of who serves now, and of the packed addresses at which flows are in question; without, all."""
Arrived = Callable[[Collection[bytes]], None]
"""Told of packed addresses that have become the node's own."""


def nobody(service: VirtualServiceKey, serving: Serving, addresses: Collection[bytes]) -> None:
    """For those who do not want to know."""


def nowhere(addresses: Collection[bytes]) -> None:
    """For those who do not want to know."""


class Served:
    """Follows what is read from and written to the kernel.

    Whoever wants to know is told of services that come into service or lose a destination: what connection tracking
    remembers of their flows may be wrong from then on. A destination that joins others changes nothing. The same holds
    for services at an address that has become the node's own: until then packets to it went elsewhere, and as services
    have their destinations before they have their address, that is the last word.
    """

    def __init__(self, moved: Moved = nobody) -> None:
        self._moved = moved
        self._serving: dict[VirtualServiceKey, set[tuple[bytes, int]]] = {}
        self._at: dict[bytes, dict[VirtualServiceKey, None]] = {}
        """Services with destinations by address; those by mark are at the empty one."""

    def read(self, rows: Iterable[Destination]) -> None:
        """The kernel holds these. That is no news: who wrote them has been told."""
        self._serving.clear()
        self._at.clear()
        for row in rows:
            if concerns(row.key.service):
                self._join(row)

    def wrote(self, batch: Batch[Destination], failed: Collection[Hashable]) -> None:
        """A batch was written but for what failed."""
        moved: dict[VirtualServiceKey, None] = {}
        for row in batch.add:
            service = row.key.service
            if concerns(service) and row.key not in failed:
                if service not in self._serving:
                    moved[service] = None
                self._join(row)
        for row in batch.remove:
            service = row.key.service
            if concerns(service) and row.key not in failed:
                moved[service] = None
                self._leave(row)
        for service in moved:
            self._moved(service, self._serving, ())

    def arrived(self, addresses: Collection[bytes]) -> None:
        """Packets to these addresses come to the services there from now on."""
        there = dict.fromkeys(addresses)
        # Which of the services by mark answer there is known to whoever is told.
        for address in (*there, b""):
            for service in self._at.get(address, ()):
                self._moved(service, self._serving, there)

    def _join(self, row: Destination) -> None:
        service = row.key.service
        serving = self._serving.get(service)
        if serving is None:
            serving = self._serving[service] = set()
            self._at.setdefault(service.address, {})[service] = None
        serving.add((row.key.address, row.key.port))

    def _leave(self, row: Destination) -> None:
        service = row.key.service
        serving = self._serving.get(service)
        if serving is None:
            return
        serving.discard((row.key.address, row.key.port))
        if not serving:
            del self._serving[service]
            others = self._at[service.address]
            del others[service]
            if not others:
                del self._at[service.address]


def concerns(service: VirtualServiceKey) -> bool:
    """Whether a service may be one of UDP: the key of one by mark does not tell."""
    return service.protocol is L4Protocol.UDP or service.mark != 0
