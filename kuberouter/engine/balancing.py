"""Hands out load balancer addresses: Services in, what their status is to say out. Synchronous, no I/O, no clock.

What was given stays given, whether the apiserver has heard of it or not, until its Service goes or no longer wants it:
so no two Services get one address, however late their status is written and in whatever order news comes.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from kuberouter.cluster.balancing import Taken
from kuberouter.compilers.loadbalancer import Room, Rooms, eligible, left, status
from kuberouter.model.balancer import BalancedService, BalancerSettings, ServiceStatus
from kuberouter.model.core import Family, ObjectRef, Problem, Reason, family_of

MOST_REMEMBERED = 10_000
"""Services that are gone of which it is known what they had."""
NAMES = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
NOTHING: Mapping[Family, bytes] = {}


class Decision(NamedTuple):
    """What a Service's status is to say, None if it does, and what is wrong."""

    row: ServiceStatus | None
    problems: tuple[Problem, ...] = ()


class Allocator:
    """All Services, and what was given to them."""

    def __init__(self, settings: BalancerSettings) -> None:
        self._settings = settings
        self._rooms = Rooms(settings)
        self.services: dict[ObjectRef, BalancedService] = {}
        self.taken = Taken()
        self.given: dict[ObjectRef, Mapping[Family, bytes]] = {}
        """By Service, seen in its status or not."""
        self._held: dict[ObjectRef, frozenset[bytes]] = {}
        self._waiting: dict[ObjectRef, None] = {}
        """Services that lack something."""
        self._remembered: OrderedDict[ObjectRef, Mapping[Family, bytes]] = OrderedDict()
        self._notes: dict[tuple[ObjectRef, bytes], Problem] = {}
        """Why a Service had to give up an address: it is told as long as it has the one that it got instead."""

    def in_order(self, refs: Iterable[ObjectRef]) -> list[ObjectRef]:
        """Services with the oldest first: of two that want an address it gets it."""
        known = [self.services[ref] for ref in refs if ref in self.services]
        return [service.ref for service in sorted(known, key=lambda service: service.rank)]

    def put(self, service: BalancedService) -> Collection[ObjectRef]:
        """Take in a Service; returns those to decide on, itself among them."""
        ref = service.ref
        if self.services.get(ref) == service:
            return ()
        self.services[ref] = service
        freed, others = self._hold(ref)
        return self._concerned(freed, {ref, *others})

    def drop(self, ref: ObjectRef) -> Collection[ObjectRef]:
        """A Service is gone; returns those to decide on."""
        if self.services.pop(ref, None) is None:
            return ()
        self._forget(ref)
        return self._concerned(self._hold(ref)[0], set())

    def decide(self, ref: ObjectRef, now: str) -> tuple[Decision, Collection[ObjectRef]]:
        """What a Service's status is to say, and other Services to decide on after that; `now` as the API writes it."""
        service = self.services.get(ref)
        if service is None:
            return Decision(None), ()
        if not eligible(service, self._settings):
            self._forget(ref)
            row = left(service, self._settings)
            # What its status still says is held until that is seen to be gone.
            return Decision(row), self._concerned(self._hold(ref)[0], set())
        given: dict[Family, bytes] = {}
        problems: dict[Family, Problem] = {}
        for family in service.families:
            found = self._choose(service, family)
            if isinstance(found, bytes):
                given[family] = found
            else:
                problems[family] = found
        if service.all_families and problems:
            given = {}
        lacking = "; ".join(problem.message for problem in problems.values())
        self.given[ref] = given
        self._waiting.pop(ref, None)
        if problems:
            self._waiting[ref] = None
        freed, _ = self._hold(ref)
        row = status(service, given, self._settings, lacking=lacking, now=now)
        notes = (note for address in given.values() if (note := self._notes.get((ref, address))) is not None)
        return Decision(row, (*problems.values(), *_ignored(service), *notes)), self._concerned(freed, set())

    def _forget(self, ref: ObjectRef) -> None:
        """A Service wants nothing any more; if it does again it gets the same, if that is free."""
        if given := self.given.pop(ref, None):
            self._remembered[ref] = given
            if len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        self._waiting.pop(ref, None)
        for noted in [noted for noted in self._notes if noted[0] == ref]:
            del self._notes[noted]

    def _hold(self, ref: ObjectRef) -> tuple[bool, set[ObjectRef]]:
        """Take what a Service has and was given; whether something is free now, and who else has what it has."""
        service = self.services.get(ref)
        seen = (*service.external_ips, *(i.address for i in service.ingress)) if service is not None else ()
        ours = frozenset(
            address
            for address in (*seen, *self.given.get(ref, NOTHING).values())
            if any(block.covers(address) for block in self._settings.ranges)
        )
        before = self._held.get(ref, frozenset())
        for address in before - ours:
            self.taken.release(address, ref)
        for address in ours - before:
            self.taken.hold(address, ref)
        if ours:
            self._held[ref] = ours
        else:
            self._held.pop(ref, None)
        others = {other for address in ours - before for other in self.taken.holders(address) if other != ref}
        return bool(before - ours), others

    def _concerned(self, freed: bool, refs: set[ObjectRef]) -> Collection[ObjectRef]:
        return {*refs, *self._waiting} if freed else refs

    def _choose(self, service: BalancedService, family: Family) -> bytes | Problem:
        """The address of a family that a Service gets: what it asks for, what it has, what it had, or another."""
        rooms = self._rooms.of(service, family)
        ref = service.ref
        if not rooms:
            message = f"no {NAMES[family]} range is given for it"
            return Problem(ref, "", Reason.MISSING, message)
        asked = next((address for address in service.requested if family_of(address) is family), None)
        if asked is not None:
            return self._asked(service, asked, rooms)
        given = self.given.get(ref, NOTHING).get(family)
        present = [item.address for item in service.ingress]
        lost: bytes | None = None
        for address in filter(None, (given, *present)):
            if len(address) != (4 if family is Family.IPV4 else 16) or not any(room.has(address) for room in rooms):
                continue
            if self._elder(service, address) is None:
                return address
            lost = lost or address
        had = self._remembered.get(ref, NOTHING).get(family)
        if had and not self._others(ref, had) and any(room.has(had) for room in rooms):
            return had
        seed = zlib.crc32(f"{ref.namespace}/{ref.name}".encode())
        for room in rooms:
            found = self.taken.pick(family, room.spans, seed)
            if found is not None:
                if lost is not None:
                    self._notes[ref, found] = self._lost(service, lost, found)
                return found
        return Problem(ref, "", Reason.MISSING, f"no {NAMES[family]} address is free")

    def _asked(self, service: BalancedService, address: bytes, rooms: Collection[Room]) -> bytes | Problem:
        ref = service.ref
        if not any(room.has(address) for room in rooms):
            message = f"{ip_address(address)}, which it asks for, is in no range for it"
            return Problem(ref, "", Reason.FORBIDDEN, message)
        mine = address in (*self.given.get(ref, NOTHING).values(), *(item.address for item in service.ingress))
        holder = self._elder(service, address) if mine else next(iter(self._others(ref, address)), None)
        if holder is None:
            return address
        message = f"{ip_address(address)}, which it asks for, is taken by {holder}"
        return Problem(ref, "", Reason.CONFLICT, message)

    def _others(self, ref: ObjectRef, address: bytes) -> list[ObjectRef]:
        return [other for other in self.taken.holders(address) if other != ref]

    def _elder(self, service: BalancedService, address: bytes) -> ObjectRef | None:
        """Who else has an address as a load balancer's, ours or another's, and keeps it, for it is older.

        What stands in `externalIPs` is shared on purpose.
        """
        for other in self._others(service.ref, address):
            known = self.services[other]
            if known.balanced and known.rank < service.rank and address not in known.external_ips:
                return other
        return None

    def _lost(self, service: BalancedService, lost: bytes, found: bytes) -> Problem:
        holder = self._elder(service, lost)
        message = f"{ip_address(lost)} is also that of {holder}, which is older: {ip_address(found)} takes its place"
        return Problem(service.ref, "status.loadBalancer.ingress", Reason.CONFLICT, message)


def _ignored(service: BalancedService) -> Iterable[Problem]:
    """What a Service asks for beyond one address of each of its families."""
    left = set(service.families)
    for address in service.requested:
        if family_of(address) in left:
            left.remove(family_of(address))
            continue
        message = f"{ip_address(address)}, which it asks for, goes unused: it gets one per family in spec.ipFamilies"
        yield Problem(service.ref, "", Reason.IGNORED, message)
