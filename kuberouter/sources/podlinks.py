"""Which link of the host leads to which pod, learned from the kernel alone, whatever CNI plugin or runtime made it.

A link whose other end is in another network namespace carries the number of that namespace, and with it the kernel
tells the addresses there (rtnetlink(7): IFLA_LINK_NETNSID, IFA_TARGET_NETNSID).
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

from kuberouter.model.cluster import PodLink
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Deleted, Synced, Upserted
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.netlink import NetlinkSocket
from kuberouter.wire.text.cni import recorded

log = logging.getLogger(__name__)

GROUPS = (rt.RTNLGRP_LINK, rt.RTNLGRP_IPV4_IFADDR, rt.RTNLGRP_IPV6_IFADDR)
WAIT = 0.5
"""Seconds after which a silent wait looks at `stop` again."""
GATHER = 0.01
"""Seconds in which the notices of one new pod, a dozen or two, are taken together."""
SETTLED = 10.0
"""Seconds in which a new pod may get the address of its second family."""
RECORDS = Path("/var/lib/cni/results")
"""Where container runtimes keep what they attached (libcni); not there if nobody has mounted it."""
LISTINGS = 50
"""Most notices of a burst that are taken together, so that a steady stream of them is no silence."""


class PodLinkSource:
    """Tells of each link with a far end that has an address, once.

    What a link led to when it was first seen stays true until the link is gone: a pod that takes another address later
    does not become somebody else. Of links that are older than this process that is not known, unless by `records`.
    """

    def __init__(self, records: Path = RECORDS) -> None:
        self.name = "podlinks"
        self._records = records
        self.trouble = ""
        self._told: dict[tuple[int, str], PodLink] = {}
        self._seen: dict[tuple[int, str], float] = {}
        """When each link was first seen, in seconds of the monotonic clock; long ago if nothing is left to learn."""

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Look at all links once, and again whenever links or addresses change, until `stop`."""
        with NetlinkSocket(rt.NETLINK_ROUTE, groups=GROUPS) as notices:
            notices.listen_everywhere()
            with NetlinkSocket(rt.NETLINK_ROUTE, strict=True) as reader:
                self._look(reader, inbox, old=True)
                inbox.put(Synced(self.name))
                while not stop.is_set():
                    if notices.notices(WAIT) == []:
                        continue
                    for _ in range(LISTINGS):
                        if notices.notices(GATHER) == []:
                            break
                    self._look(reader, inbox)

    def _look(self, reader: NetlinkSocket, inbox: Inbox, *, old: bool = False) -> None:
        given = self._given() if old else {}
        present: set[tuple[int, str]] = set()
        for body in reader.dump(rt.RTM_GETLINK, rt.IFINFO.pack(0, 0, 0, 0, 0, 0)):
            peer = rt.parse_peer(body)
            if peer is None:
                continue
            link = rt.parse_link(body)
            key = (link.ifindex, link.name)
            present.add(key)
            told = self._told.get(key)
            now = time.monotonic()
            young = now - self._seen.setdefault(key, -math.inf if link.name in given else now) < SETTLED
            addresses = told.addresses if told is not None else given.get(link.name, ())
            # What is told later may be what a process in the pod has made of it.
            witnessed = (not old or bool(addresses)) if told is None else told.witnessed
            if (told is None and not addresses) or (young and len(addresses) < 2):
                families = {len(address) for address in addresses}
                more = [address for address in _first_addresses(reader, peer) if len(address) not in families]
                witnessed = witnessed and not (addresses and more)
                addresses = (*addresses, *more)
            found = PodLink(ObjectRef("PodLink", "", link.name), addresses, peer.bridged, witnessed)
            if addresses and found != told:
                self._told[key] = found
                inbox.put(Upserted(found))
        for key in self._seen.keys() - present:
            del self._seen[key]
            gone = self._told.pop(key, None)
            if gone is not None and gone.ref not in {link.ref for link in self._told.values()}:
                inbox.put(Deleted(gone.ref))

    def _given(self) -> dict[str, tuple[bytes, ...]]:
        """What links of pods were given, as far as it is written down."""
        found: dict[str, tuple[bytes, ...]] = {}
        for file in sorted(self._records.glob("*")):
            try:
                found |= recorded(file.read_text())
            except (OSError, ValueError) as error:
                log.debug("%s: what was attached to a pod cannot be read: %s", file, error)
        return found


def _first_addresses(reader: NetlinkSocket, peer: rt.PeerFacts) -> tuple[bytes, ...]:
    """The address of each family that the link was given first; none as long as it lacks any, or when it is gone."""
    try:
        found = [rt.parse_address(body) for body in reader.dump(rt.RTM_GETADDR, rt.peer_addresses(peer))]
    except OSError as error:
        log.debug("the addresses of link %d in namespace %d cannot be read: %s", peer.ifindex, peer.nsid, error)
        return ()
    usable = [each.address for each in found if each is not None and each.scope == rt.RT_SCOPE_UNIVERSE]
    # The kernel lists IPv4 addresses oldest first and IPv6 addresses newest first.
    first = [address for address in usable if len(address) == 4][:1]
    return (*first, *[address for address in usable if len(address) == 16][-1:])
