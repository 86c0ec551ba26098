"""Packets that the firewall dropped, as its rules log them to a group of nfnetlink_log.

Not events: nothing is decided by them. They go to whoever tells people of them. However many come, no more than a few
hundred a second are looked at; further ones wait in a small buffer of the kernel, and what that cannot hold is counted.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Sequence

from kuberouter.model.core import Unavailable
from kuberouter.model.drops import LoggedPacket
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire import nflog
from kuberouter.wire.netlink import NetlinkSocket, error_text

log = logging.getLogger(__name__)

WAIT = 0.5
"""Seconds after which a silent wait looks at `stop` again."""
GATHER = 0.001
"""Seconds in which further batches are taken along."""
MOST = 100
"""Packets after which no further batch is taken along; a batch adds at most `nflog.BATCH`."""
PAUSE = 0.2
"""Seconds between two turns: the bound on what a flood of packets can cost is `MOST` per pause."""
BUFFER = 1 << 18
"""Bytes in the kernel for what waits meanwhile: about a thousand packets. More would only be told of late."""
RETRY = 300.0
"""Seconds until it is tried again to have the group: who has it may be meant to have it for good."""


class DropSource:
    """Reads the group as long as nobody else does."""

    def __init__(
        self, group: int, tell: Callable[[Sequence[LoggedPacket], int], None], *, retry: float = RETRY
    ) -> None:
        """`tell` gets packets, and how many were lost before them. It is called from this source's thread every so
        often, also without any."""
        self.name = "drops"
        self.reading = False
        """Whether the group is ours now."""
        self._trouble = ""
        self._group = group
        self._tell = tell
        self._retry = retry
        self._links: dict[int, str] = {}

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Read until `stop`; while that is not possible try again every so often."""
        del inbox
        while not stop.is_set():
            try:
                with NetlinkSocket(nflog.NETLINK_NETFILTER, buffer=BUFFER) as link:
                    self._take(link)
                    self._note("")
                    self.reading = True
                    self._read(link, stop)
            except (OSError, Unavailable) as error:
                self.reading = False
                self._note(str(error))
                stop.wait(self._retry)

    def _take(self, link: NetlinkSocket) -> None:
        (code,) = link.transact((nflog.take(self._group),))
        if code in (errno.EPERM, errno.EBUSY):
            raise Unavailable("another program reads it, such as ulogd or tcpdump")
        if code:
            raise Unavailable(error_text(code))

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("NFLOG group %d: %s; refused packets are not told of here meanwhile", self._group, trouble)
        elif self._trouble and not trouble:
            log.info("NFLOG group %d: it can be read again", self._group)
        self._trouble = trouble

    def _read(self, link: NetlinkSocket, stop: Stop) -> None:
        expected = 0
        while not stop.is_set():
            found = self._turn(link)
            lost = 0
            for number in (record.number for record in found if record.number is not None):
                lost += (number - expected) % (1 << 32)
                expected = number + 1
            self._links.clear()
            self._tell([packet for record in found if (packet := self._packet(record)) is not None], lost)
            if found:
                stop.wait(PAUSE)

    def _turn(self, link: NetlinkSocket) -> list[nflog.Record]:
        """What has come, or comes soon."""
        found: list[nflog.Record] = []
        for _ in range(MOST):
            notices = link.notices(GATHER if found else WAIT)
            # None says that the buffer ran over: what is in it can be read, and the numbers tell what is not.
            if notices is not None:
                found += [r for kind, body, _ in notices if (r := nflog.parse(kind, body)) is not None]
                if not notices or len(found) >= MOST:
                    break
        return found

    def _packet(self, record: nflog.Record) -> LoggedPacket | None:
        seen = nflog.headers(record.packet)
        if seen is None:
            return None
        return LoggedPacket(record.prefix, self._link(record.link), *seen)

    def _link(self, index: int) -> str:
        """The name of a link; empty if there is none any more."""
        if index and index not in self._links:
            try:
                self._links[index] = socket.if_indextoname(index)
            except OSError:
                self._links[index] = ""
        return self._links.get(index, "")
