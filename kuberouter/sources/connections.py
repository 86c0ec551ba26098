"""The end of what drains: destinations without weight whose connections have ended, from looks at the kernel.

IPVS tells nobody when a connection ends, so one has to look; nothing is read while nothing drains. Of the whole table
only the virtual services in question are read.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from kuberouter.model.cluster import Departed
from kuberouter.model.core import ObjectRef, Unavailable
from kuberouter.model.events import Deleted
from kuberouter.model.ipvs import VirtualServiceKey
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire import ipvs
from kuberouter.wire.netlink import NETLINK_GENERIC, NetlinkSocket, generic_family

log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between looks."""
SHARE = 20.0
"""How many times the duration of a look is waited for the next, so that many draining services do not keep it busy."""
LOOKS = 2
"""Looks in a row that find no open connection. One that has just begun to end still exchanges its last packets."""


class ConnectionSource:
    """Tells of departed destinations that have no open connection left."""

    def __init__(self, draining: Callable[[], Sequence[Departed]], *, period: float = PERIOD) -> None:
        """`draining` says what drains now; it is called from this source's thread."""
        self.name = "connections"
        self.trouble = ""
        """What keeps it from looking now; empty when nothing does."""
        self.idle = 0
        """Departed destinations whose connections have ended."""
        self._draining = draining
        self._period = period
        self._quiet: dict[ObjectRef, int] = {}
        """Looks in a row that found no open connection."""

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Look every so often until `stop`."""
        with NetlinkSocket(NETLINK_GENERIC) as link:
            pause = self._period
            while not stop.wait(pause):
                began = time.monotonic()
                try:
                    self._look(link, inbox)
                    self.trouble = ""
                except (OSError, Unavailable) as error:
                    if not self.trouble:
                        log.error("connections of what drains cannot be counted: %s", error)
                    self.trouble = str(error)
                pause = max(self._period, SHARE * (time.monotonic() - began))

    def _look(self, link: NetlinkSocket, inbox: Inbox) -> None:
        draining = self._draining()
        if not draining:
            self._quiet.clear()
            return
        by_service: defaultdict[VirtualServiceKey, list[Departed]] = defaultdict(list)
        for departed in draining:
            by_service[departed.key.service].append(departed)
        number = generic_family(link, ipvs.FAMILY, ipvs.MODULE)
        quiet: dict[ObjectRef, int] = {}
        for service, members in by_service.items():
            found = _destinations(link, number, service)
            for departed in members:
                facts = found.get((departed.key.address, departed.key.port))
                # One that still has weight has not been told yet to take no more.
                if facts is not None and (facts.weight or facts.active):
                    continue
                looks = self._quiet.get(departed.ref, 0) + 1
                if looks < LOOKS:
                    quiet[departed.ref] = looks
                    continue
                self.idle += 1
                inbox.put(Deleted(departed.ref))
        self._quiet = quiet


def _destinations(
    link: NetlinkSocket, number: int, service: VirtualServiceKey
) -> dict[tuple[bytes, int], ipvs.DestinationFacts]:
    """What the kernel knows of the destinations of a service; nothing if there is no such service."""
    family = int(service.family)
    if service.mark:
        key = ipvs.mark_key(family, service.mark)
    else:
        key = ipvs.service_key(family, int(service.protocol), service.address, service.port)
    answers = link.dump(number, ipvs.header(ipvs.CMD_GET_DEST) + ipvs.service_reference(key))
    facts = (ipvs.parse_destination(answer, family) for answer in answers)
    return {(each.address, each.port): each for each in facts}
