"""Per-Service knowledge that one slice cannot have: who else claims its addresses, and whether anybody is ready.

Kept up to date by change, so that one endpoint of a Service of 50,000 costs one slice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence

from kuberouter.model.cluster import ClusterObject, EndpointCondition, EndpointSlice, Service
from kuberouter.model.core import Family, KeyValue, L4Protocol, ObjectRef, family_of

_READY = EndpointCondition.READY.value


class FrontendKind(enum.IntEnum):
    """What makes a Service reachable at an address."""

    CLUSTER = 0
    NODE_PORT = 1
    LOAD_BALANCER = 2
    EXTERNAL = 3


class Claim(KeyValue, frozen=True, gc=False, cache_hash=True):
    """An address with a port that a Service wants to be reached at; the address is empty for a node port."""

    address: bytes
    protocol: L4Protocol
    port: int


Claimant = tuple[FrontendKind, float, ObjectRef]
"""Who claims, as what, and since when it exists (seconds since the epoch)."""


class Group(KeyValue, frozen=True, gc=False, cache_hash=True):
    """The endpoints among which one port of a Service is balanced, in one family."""

    service: ObjectRef
    family: Family
    port: str
    protocol: L4Protocol


def addresses(service: Service) -> Iterator[tuple[FrontendKind, bytes]]:
    """The addresses that a Service asks for; one that it asks for twice comes first as what the API gave it as."""
    yield from ((FrontendKind.CLUSTER, address) for address in service.cluster_ips)
    if not service.options.skip_lb_ips:
        yield from ((FrontendKind.LOAD_BALANCER, address) for address in service.load_balancer_ips)
    yield from ((FrontendKind.EXTERNAL, address) for address in service.external_ips)


def claims(service: Service) -> dict[tuple[FrontendKind, Claim], None]:
    """Everything that a Service claims, whether this node can serve it or not."""
    found: dict[tuple[FrontendKind, Claim], None] = {}
    for port in service.ports if service.served else ():
        for kind, address in addresses(service):
            found[kind, Claim(address, port.protocol, port.port)] = None
        if port.node_port:
            found[FrontendKind.NODE_PORT, Claim(b"", port.protocol, port.node_port)] = None
    return found


def _precedence(claimant: Claimant) -> tuple[bool, float, str, str, int]:
    """What the apiserver gave out to one Service alone first, then the oldest, then by name."""
    kind, created, ref = claimant
    return kind > FrontendKind.NODE_PORT, created, ref.namespace, ref.name, kind


class FrontendIndex:
    """Claims by Service, and how many slices of each group have ready endpoints, anywhere and on this node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._claimants: dict[Claim, list[Claimant]] = {}
        self._outside: dict[tuple[L4Protocol, int], dict[ObjectRef, int]] = {}
        """By port, the Services that ask for it at an address which may be the node's own, and at how many."""
        self._ready: dict[Group, int] = {}
        self._ready_here: dict[Group, int] = {}
        self.contenders: set[ObjectRef] = set()
        """Other Services that want what the last change claimed or gave up."""
        self.flipped: set[ObjectRef] = set()
        """Services of which the last change altered whether any endpoint, or any local one, is ready."""

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change; `contenders` and `flipped` then say what it means for others."""
        self.contenders, self.flipped = set(), set()
        if isinstance(old, Service):
            self._claim(old, -1)
        if isinstance(new, Service):
            self._claim(new, 1)
        if isinstance(old, EndpointSlice) or isinstance(new, EndpointSlice):
            groups = {g: (self.any_ready(g), self.any_ready_here(g)) for s in (old, new) for g in self._groups(s)}
            for each, step in ((old, -1), (new, 1)):
                if isinstance(each, EndpointSlice):
                    self._count(each, step)
            for group, before in groups.items():
                if (self.any_ready(group), self.any_ready_here(group)) != before:
                    self.flipped.add(group.service)

    def _claim(self, service: Service, step: int) -> None:
        for kind, claim in claims(service):
            entry = (kind, service.created, service.ref)
            entries = self._claimants.setdefault(claim, [])
            if step > 0:
                entries.append(entry)
                entries.sort(key=_precedence)
            else:
                entries.remove(entry)
            self.contenders.update(ref for _, _, ref in entries)
            if not entries:
                del self._claimants[claim]
            place = (claim.protocol, claim.port)
            if kind is FrontendKind.NODE_PORT:
                # On the node's own addresses a node port goes before what Services ask for themselves.
                self.contenders.update(self._outside.get(place, ()))
            elif kind is not FrontendKind.CLUSTER:
                users = self._outside.setdefault(place, {})
                users[service.ref] = users.get(service.ref, 0) + step
                if not users[service.ref]:
                    del users[service.ref]
                    if not users:
                        del self._outside[place]
        self.contenders.discard(service.ref)

    def _groups(self, found: ClusterObject | None) -> Iterable[Group]:
        if isinstance(found, EndpointSlice) and found.endpoints:
            family = family_of(found.endpoints[0].address)
            for port in found.ports:
                yield Group(found.service, family, port.name, port.protocol)

    def _count(self, found: EndpointSlice, step: int) -> None:
        ready = any(e.conditions & _READY for e in found.endpoints)
        here = ready and any(e.conditions & _READY and e.node == self._node for e in found.endpoints)
        for group in self._groups(found):
            for counted, book in ((ready, self._ready), (here, self._ready_here)):
                if counted:
                    left = book.get(group, 0) + step
                    if left:
                        book[group] = left
                    else:
                        del book[group]

    def claimants(self, claim: Claim) -> Sequence[Claimant]:
        """Who asks for this address and port; of those that may have it the first one gets it."""
        return self._claimants.get(claim, ())

    def any_ready(self, group: Group) -> bool:
        """Whether a group has a ready endpoint anywhere."""
        return group in self._ready

    def any_ready_here(self, group: Group) -> bool:
        """Whether a group has a ready endpoint on this node."""
        return group in self._ready_here
