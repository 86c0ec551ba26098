"""UDP flows that connection tracking remembers wrongly, taken out of its table.

A flow that was sent to a service address before anybody served it there, or that an endpoint answered which is gone,
is remembered with who answered then. While its client keeps sending, the kernel sticks to that and the packets are
lost: IPVS changes no flow that is known already. Such a flow is stale when who answers is no endpoint of the service.

Reading a table of flows can take long, so whoever finds a service in question leaves it here, and another thread does
the rest. The next packet of a flow that is taken out makes it known anew.
"""

from __future__ import annotations

import errno
import queue
from collections.abc import Mapping

from kuberouter.model.core import Family, L4Protocol
from kuberouter.model.ipvs import VirtualServiceKey
from kuberouter.wire import conntrack
from kuberouter.wire.netlink import NetlinkSocket, error_text

ROUNDS = 3
"""Looks at the table. It changes while it is read, so what a look has missed the next one finds."""
MOST_ASKED = 8
"""Services that are asked for one by one; each such question walks through the whole table inside the kernel."""

Endpoints = frozenset[tuple[bytes, int]]
"""Packed addresses and ports."""


class StaleFlows:
    """Takes stale flows of UDP services out of the kernel's table. Nothing else is touched."""

    def __init__(self) -> None:
        self.removed = 0
        self._wanted: dict[VirtualServiceKey, Endpoints] = {}
        self._asked: queue.SimpleQueue[tuple[VirtualServiceKey, Endpoints]] = queue.SimpleQueue()

    def check(self, service: VirtualServiceKey, endpoints: Endpoints) -> None:
        """Have the flows of a UDP service looked at, which these endpoints serve from now on. Returns at once."""
        self._asked.put((service, endpoints))

    def work(self, wait: float) -> None:
        """Wait up to `wait` seconds for something that is asked, and do it. What fails stays asked.

        Raises OSError or Unavailable if the table cannot be read.
        """
        self._wanted |= self._gather(wait)
        if self._wanted:
            self.sweep(self._wanted)
            self._wanted.clear()

    def _gather(self, wait: float) -> dict[VirtualServiceKey, Endpoints]:
        """Everything that is asked now, the last word on each service."""
        found: dict[VirtualServiceKey, Endpoints] = {}
        try:
            found.update((self._asked.get(timeout=wait),))
            while True:
                found.update((self._asked.get_nowait(),))
        except queue.Empty:
            return found

    def sweep(self, wanted: Mapping[VirtualServiceKey, Endpoints]) -> None:
        """Take the stale flows of these services out. Raises OSError or Unavailable if the table cannot be read."""
        with NetlinkSocket(conntrack.NETLINK_NETFILTER) as link:
            for family in Family:
                places = {(key.address, key.port): who for key, who in wanted.items() if key.family is family}
                if places:
                    self._sweep(link, family, places)

    def _sweep(self, link: NetlinkSocket, family: Family, places: Mapping[tuple[bytes, int], Endpoints]) -> None:
        def stale(body: bytes) -> bool:
            flow = conntrack.parse_flow(body)
            if flow is None or flow.protocol != L4Protocol.UDP:
                return False
            endpoints = places.get((flow.address, flow.port))
            return endpoints is not None and (flow.answering, flow.answering_port) not in endpoints

        protocol = int(L4Protocol.UDP)
        asked = [(b"", 0)] if len(places) > MOST_ASKED else list(places)
        for _ in range(ROUNDS):
            bodies = [
                body
                for place in asked
                for body in link.dump(conntrack.GET, conntrack.dump_request(family, protocol, *place), keep=stale)
            ]
            requests = [request for body in bodies if (request := conntrack.delete_request(body)) is not None]
            if not requests:
                return
            for code in link.transact([(conntrack.DELETE, 0, request) for request in requests]):
                if not code:
                    self.removed += 1
                elif code != errno.ENOENT:
                    raise OSError(code, f"a flow cannot be deleted: {error_text(code)}")
