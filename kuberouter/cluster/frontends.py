"""Per-Service knowledge that one slice cannot have: who else claims its addresses, and whether anybody is ready.

Kept up to date by change, so that one endpoint of a Service of 50,000 costs one slice.
"""

from __future__ import annotations

from collections.abc import Iterable

from kuberouter.model.cluster import ClusterObject, EndpointCondition, EndpointSlice, Service
from kuberouter.model.core import Family, KeyValue, L4Protocol, ObjectRef, family_of

_READY = EndpointCondition.READY.value


class Claim(KeyValue, frozen=True, gc=False, cache_hash=True):
    """An address with a port that a Service wants to be reached at; the address is empty for a node port."""

    address: bytes
    protocol: L4Protocol
    port: int


class Group(KeyValue, frozen=True, gc=False, cache_hash=True):
    """The endpoints among which one port of a Service is balanced, in one family."""

    service: ObjectRef
    family: Family
    port: str
    protocol: L4Protocol


def claims(service: Service) -> frozenset[Claim]:
    """Everything that a Service claims, whether this node can serve it or not."""
    if not service.proxied:
        return frozenset()
    found = {Claim(a, p.protocol, p.port) for a in service.cluster_ips for p in service.ports}
    found |= {Claim(b"", p.protocol, p.node_port) for p in service.ports if p.node_port}
    return frozenset(found)


class FrontendIndex:
    """Claims by Service, and how many slices of each group have ready endpoints, anywhere and on this node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._claimants: dict[Claim, list[tuple[float, ObjectRef]]] = {}
        self._ready: dict[Group, int] = {}
        self._ready_here: dict[Group, int] = {}
        self.contenders: set[ObjectRef] = set()
        """Other Services whose claims the last change won or lost for them."""
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
        entry = (service.created, service.ref)
        for claim in claims(service):
            entries = self._claimants.setdefault(claim, [])
            if step > 0:
                entries.append(entry)
                entries.sort(key=lambda e: (e[0], e[1].namespace, e[1].name))
            else:
                entries.remove(entry)
            self.contenders.update(ref for _, ref in entries if ref != service.ref)
            if not entries:
                del self._claimants[claim]

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

    def winner(self, claim: Claim) -> ObjectRef | None:
        """The Service that a claim belongs to: the oldest, then the first by namespace and name."""
        entries = self._claimants.get(claim)
        return entries[0][1] if entries else None

    def any_ready(self, group: Group) -> bool:
        """Whether a group has a ready endpoint anywhere."""
        return group in self._ready

    def any_ready_here(self, group: Group) -> bool:
        """Whether a group has a ready endpoint on this node."""
        return group in self._ready_here
