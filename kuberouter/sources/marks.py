"""Firewall marks that are in use when the daemon starts: each is kept for whom it was, and a restart moves none.

Told of once. A rule that marks packets to an address and port says for whom the mark is: in a chain of ours, or in a
builtin chain, where the Go kube-router has it. So does an entry with a mark in a set of ours. A FWMARK service of IPVS
without either belongs to somebody else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from itertools import product
from pathlib import Path

from kuberouter.model.cluster import KnownMark, MarkedPlace, MarkUse
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Row, Unavailable
from kuberouter.model.events import Drifted, Synced, Upserted
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire import ipset, ipvs
from kuberouter.wire.command import run
from kuberouter.wire.netlink import NETLINK_GENERIC, NetlinkSocket, generic_family
from kuberouter.wire.text.marks import MarkRule, parse_marks

log = logging.getLogger(__name__)

BUILTIN = {"PREROUTING": MarkUse.DSR, "OUTPUT": MarkUse.DSR}
"""What a mark in a builtin chain was for; only the Go kube-router puts them there, and only for this."""
NAMES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}
PROC = Path("/proc/thread-self/net")
NO_SETS: Mapping[str, bytes | None] = {}
PAUSE = 3600.0
"""Seconds of a wait for the end."""


class MarkSource:
    """Reads the mangle tables of both iptables variants, sets, and IPVS."""

    def __init__(
        self,
        chains: Mapping[str, MarkUse],
        limit: int,
        *,
        sets: Mapping[str, bytes | None] = NO_SETS,
        revisit: tuple[type[Row], ...] = (),
        warning: str = "",
    ) -> None:
        """`chains` are ours, with what marks are for in each; marks above `limit` are none of our business.

        So are the `sets` with the marks of clients inside, named without `inet6:`, each with the address of the places
        that its entries stand for, or None where that is the entry's own. Tables in `revisit` are read again where
        anything of direct return was found: what depends on it may be left in them. There the `warning` is logged too.
        """
        self.name = "marks"
        self.trouble = ""
        self.found = False
        """Whether marks of ours, or of the Go kube-router, were there at the start."""
        self._uses = {**BUILTIN, **chains}
        self._limit = limit
        self._sets = sets
        self._revisit = revisit
        self._warning = warning

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Look once, tell, and wait for the end."""
        places: dict[MarkedPlace, int] = {}
        for rule in self._rules():
            place = MarkedPlace(rule.address, rule.protocol, rule.port, self._uses[rule.chain])
            places.setdefault(place, rule.mark)
        for place, mark in self._entries():
            places.setdefault(place, mark)
        for place, mark in places.items():
            name = f"{ip_address(place.address)}-{place.protocol.name}-{place.port}-{place.use.name}"
            inbox.put(Upserted(KnownMark(ObjectRef("KnownMark", "", name), mark, place)))
        for mark in sorted(_served() - set(places.values())):
            if mark <= self._limit:
                inbox.put(Upserted(KnownMark(ObjectRef("KnownMark", "", str(mark)), mark)))
        self.found = any(place.use is MarkUse.DSR for place in places)
        if self.found and self._warning:
            log.warning("%s", self._warning)
        inbox.put(Synced(self.name))
        for row in self._revisit if self.found else ():
            inbox.put(Drifted(row))
        while not stop.wait(PAUSE):
            pass

    def _rules(self) -> Iterator[MarkRule]:
        for family in Family:
            for tool in _tools(family):
                try:
                    saved = run((tool, "-t", "mangle"))
                except Unavailable as error:
                    log.debug("%s", error)
                    continue
                for rule in parse_marks(saved.output):
                    if isinstance(rule, MarkRule) and rule.chain in self._uses and 0 < rule.mark <= self._limit:
                        yield rule

    def _entries(self) -> Iterator[tuple[MarkedPlace, int]]:
        kind = ipset.message_type(ipset.IPSET_CMD_LIST)
        with NetlinkSocket(ipset.NETLINK_NETFILTER) as wire:
            for (name, address), prefix in product(self._sets.items(), ("", "inet6:")):
                try:
                    answers = wire.dump(kind, ipset.list_request(entries=True, name=prefix + name))
                except OSError:
                    # There is no such set, or there are none at all.
                    continue
                for part in map(ipset.parse_part, answers):
                    for (own, _, protocol, port, *_), mark in ipset.parse_marks(part):
                        if 0 < mark <= self._limit:
                            yield MarkedPlace(address or own, L4Protocol(protocol), port, MarkUse.INSIDE), mark


def _tools(family: Family) -> Iterator[str]:
    """The programs that list a mangle table without making it."""
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    yield f"{name}-nft-save"
    try:
        existing = (PROC / NAMES[family]).read_text().split()
    except OSError:
        return
    if "mangle" in existing:
        yield f"{name}-legacy-save"


def _served() -> set[int]:
    """The marks that IPVS has services for; none without IPVS."""
    try:
        with NetlinkSocket(NETLINK_GENERIC) as wire:
            number = generic_family(wire, ipvs.FAMILY, ipvs.MODULE)
            answers = wire.dump(number, ipvs.header(ipvs.CMD_GET_SERVICE))
    except (OSError, Unavailable) as error:
        log.debug("IPVS cannot be read: %s", error)
        return set()
    return {facts.fwmark for facts in map(ipvs.parse_service, answers)} - {0}
