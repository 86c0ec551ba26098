"""Values that are handed out one by one, so that no two who ask get the same: firewall marks so far.

Compilers only look up. A mark is a hash of what it stands for, so nearly always it is the same on every node and in
every run. Where hashes collide the first to ask gets it; what was found in the kernel at the start is kept for whom it
was found, so that a restart does not swap marks under live traffic.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from itertools import chain

from kuberouter.cluster.frontends import FrontendKind, addresses
from kuberouter.model.cluster import ClusterObject, KnownMark, MarkedPlace, MarkUse, Service
from kuberouter.model.core import ObjectRef

MARK_MASK = 0x3FFF
"""Marks lie below those of Kubernetes (0x4000, 0x8000) and of the firewall (0x10000 and up)."""
ATTEMPTS = 16380
"""Most hashes that are tried for one place; kept from the Go kube-router."""


ANYWHERE = bytes(4)
"""Address of the place of a node port: one mark serves for all addresses of the node, in both families."""


NO_PLACES: frozenset[MarkedPlace] = frozenset()
NOBODY: frozenset[ObjectRef] = frozenset()


def marked_places(service: Service) -> frozenset[MarkedPlace]:
    """The places for which a Service needs marks, whether this node may serve them or not.

    Endpoints answer directly at external and load balancer addresses only. Where the external policy is Local, clients
    of the cluster are under none: they are told apart by mark, there and at node ports.
    """
    if not (service.options.dsr or service.external_local or service.options.local) or not service.served:
        return NO_PLACES
    uses = [MarkUse.DSR] if service.options.dsr else []
    if service.external_local or service.options.local:
        uses.append(MarkUse.INSIDE)
    outside = [address for kind, address in addresses(service) if kind > FrontendKind.NODE_PORT]
    found = {MarkedPlace(a, port.protocol, port.port, use) for port in service.ports for a in outside for use in uses}
    if MarkUse.INSIDE in uses:
        node_ports = (port for port in service.ports if port.node_port)
        found |= {MarkedPlace(ANYWHERE, port.protocol, port.node_port, MarkUse.INSIDE) for port in node_ports}
    return frozenset(found)


def candidates(place: MarkedPlace) -> Iterator[int]:
    """The marks that a place may get, best first: FNV-1a, 32 bits, over a text, cut to 14 bits, without 0: no mark.

    The text is `ADDRESS-PROTOCOL-PORT`, then with the suffixes `-1`, `-2`, ... Vectors: `10.255.0.1-tcp-80` is 9054,
    `2001:db8::1-tcp-443` is 9129, `147.160.180.44-udp-80` is 15688 and then 842. Finitely many: in the end every mark.
    """
    text = f"{ipaddress.ip_address(place.address)}-{place.protocol.name.lower()}-{place.port}"
    start = _fnv((f"{text}-{place.use}" if place.use else text).encode())
    hashes = (_fnv(b"-%d" % number, start) for number in range(1, ATTEMPTS))
    marks = chain((start & MARK_MASK,), (value & MARK_MASK for value in hashes), range(1, MARK_MASK + 1))
    return (mark for mark in marks if mark)


def _fnv(text: bytes, value: int = 0x811C9DC5) -> int:
    for byte in text:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


class MarkIndex:
    """The marks of the places that Services ask for."""

    def __init__(self) -> None:
        self._users: dict[MarkedPlace, set[ObjectRef]] = {}
        self._marks: dict[MarkedPlace, int] = {}
        self._holders: dict[int, MarkedPlace] = {}
        self._without: dict[MarkedPlace, None] = {}
        """Places that found no mark free, in the order in which they asked."""
        self._found: dict[MarkedPlace, int] = {}
        self._kept: dict[int, MarkedPlace | None] = {}
        """Marks that the kernel was found to use, and for whom they are kept; None is somebody else."""
        self.moved = NOBODY
        """Services whose places got other marks by the last change, besides the one that changed."""

        self.used = False
        """Some place has a mark for direct return, or had one since, or shortly before, the daemon started."""
        self.began = False
        """That has come to be so by the last change."""

    def mark(self, place: MarkedPlace) -> int:
        """The mark of a place that a Service asks for; 0 when none is left."""
        return self._marks.get(place, 0)

    def place(self, mark: int) -> MarkedPlace | None:
        """The place that a mark stands for."""
        return self._holders.get(mark)

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change."""
        self.moved, self.began = NOBODY, False
        service = old if old is not None else new
        if service is None:
            return
        before = marked_places(old) if old is not None and isinstance(old, Service) else NO_PLACES
        after = marked_places(new) if new is not None and isinstance(new, Service) else NO_PLACES
        if not (before or after):
            if service.ref.kind == "KnownMark" and isinstance(new, KnownMark):
                self._learn(new)
                self._use(new.place is not None and new.place.use is MarkUse.DSR)
            return
        self._use(any(place.use is MarkUse.DSR for place in after))
        for place in _in_order(before - after):
            self._leave(place, service.ref)
        for place in _in_order(after - before):
            self._ask(place, service.ref)

    def _use(self, now: bool) -> None:
        self.began = now and not self.used
        self.used = self.used or now

    def users(self) -> Iterable[ObjectRef]:
        """The Services that ask for marks for direct return."""
        return {ref: None for place, users in self._users.items() if place.use is MarkUse.DSR for ref in users}

    def _ask(self, place: MarkedPlace, service: ObjectRef) -> None:
        users = self._users.setdefault(place, set())
        users.add(service)
        if len(users) == 1:
            self._assign(place)

    def _leave(self, place: MarkedPlace, service: ObjectRef) -> None:
        users = self._users[place]
        users.discard(service)
        if users:
            return
        del self._users[place]
        self._free(place)
        waiting = next(iter(self._without), None)
        if waiting is not None:
            self._assign(waiting)
            self.moved |= self._users[waiting]

    def _assign(self, place: MarkedPlace) -> None:
        wishes = chain((self._found.get(place, 0),), candidates(place))
        mark = next((m for m in wishes if m and m not in self._holders and self._kept.get(m, place) == place), 0)
        if mark:
            self._marks[place] = mark
            self._holders[mark] = place
            self._without.pop(place, None)
        else:
            self._without[place] = None

    def _free(self, place: MarkedPlace) -> None:
        self._without.pop(place, None)
        if mark := self._marks.pop(place, 0):
            del self._holders[mark]

    def _learn(self, known: KnownMark) -> None:
        """Something was found in the kernel. That is before anything is compiled, so places may still move.

        Where two places were found with one mark, or one with two, the first that is told of holds.
        """
        if known.place is not None and known.place in self._found:
            return
        if self._kept.setdefault(known.mark, known.place) != known.place:
            return
        places = {self._holders[known.mark]} if known.mark in self._holders else set()
        if known.place is not None:
            self._found[known.place] = known.mark
            places |= {known.place} & self._users.keys()
        for place in places:
            self._free(place)
        for place in _in_order(places):
            self._assign(place)
            self.moved |= self._users[place]


def _in_order(places: Iterable[MarkedPlace]) -> list[MarkedPlace]:
    """Always the same order, for of two that want a mark the first gets it."""
    return sorted(places, key=lambda place: (place.address, place.protocol, place.port, place.use))
