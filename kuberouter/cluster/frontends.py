"""Per-Service knowledge that one slice cannot have: who else claims its addresses, and whether anybody is ready.

Kept up to date by change, so that one endpoint of a Service of 50,000 costs one slice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kuberouter.model.cluster import ClusterObject, EndpointCondition, EndpointSlice, Service
from kuberouter.model.core import Family, KeyValue, L4Protocol, ObjectRef, Value, family_of

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


class Standing(Value, frozen=True, gc=False):
    """How a group stands as a whole: what a single slice has to know of the others."""

    ready: bool = False
    """Somebody is ready."""
    ready_here: bool = False
    """Somebody of this node is ready."""
    node_hints: bool = False
    """Everybody who is ready is meant for certain nodes, and somebody for this one."""
    zones: frozenset[str] = frozenset()
    """The zones for which ready endpoints are meant, if everybody who is ready is meant for certain zones."""


class _Share(NamedTuple):
    """What one slice brings to its groups; without a ready endpoint nothing."""

    ready: bool = False
    here: bool = False
    node_hints: bool = True
    """Every ready endpoint is meant for certain nodes."""
    for_here: bool = False
    zone_hints: bool = True
    """Every ready endpoint is meant for certain zones."""
    zones: frozenset[str] = frozenset()


_NOTHING = _Share()


def _share(found: EndpointSlice, node: str) -> _Share:
    ready = [e for e in found.endpoints if e.conditions & _READY]
    if not ready:
        return _NOTHING
    here = any(e.node == node for e in ready)
    hints = [e.hints for e in ready if e.hints is not None]
    if len(hints) < len(ready):
        # As it nearly always is. Hints count only if all have them, so what others have need not be known.
        return _Share(True, here, node_hints=False, zone_hints=False)
    return _Share(
        True,
        here,
        node_hints=all(h.nodes for h in hints),
        for_here=any(node in h.nodes for h in hints),
        zone_hints=all(h.zones for h in hints),
        zones=frozenset(zone for h in hints for zone in h.zones),
    )


class _Tally:
    """Of one group, the numbers of slices in which there is a ready endpoint of this kind and that."""

    __slots__ = ("for_here", "here", "no_node", "no_zone", "ready", "zones")

    def __init__(self) -> None:
        self.ready = self.here = self.for_here = self.no_node = self.no_zone = 0
        self.zones: dict[str, int] | None = None

    def add(self, share: _Share, step: int) -> None:
        """Count a slice in (`step` 1) or out (-1)."""
        self.ready += step * share.ready
        self.here += step * share.here
        self.no_node += step * (not share.node_hints)
        self.for_here += step * share.for_here
        self.no_zone += step * (not share.zone_hints)
        if share.zones:
            zones = self.zones = self.zones or {}
            for zone in share.zones:
                zones[zone] = zones.get(zone, 0) + step
                if not zones[zone]:
                    del zones[zone]

    def standing(self) -> Standing:
        """What it comes to."""
        zones = frozenset(self.zones) if self.zones and not self.no_zone else _NOWHERE
        return Standing(self.ready > 0, self.here > 0, self.for_here > 0 and not self.no_node, zones)


_NOWHERE: frozenset[str] = frozenset()
_NOBODY = Standing()


class FrontendIndex:
    """Claims by Service, and how each group of endpoints stands over all slices."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._claimants: dict[Claim, list[Claimant]] = {}
        self._outside: dict[tuple[L4Protocol, int], dict[ObjectRef, int]] = {}
        """By port, the Services that ask for it at an address which may be the node's own, and at how many."""
        self._asking: dict[bytes, tuple[ObjectRef, ...]] = {}
        """By external or load balancer address, the Services that ask for it."""
        self._tallies: dict[Group, _Tally] = {}
        self.contenders: set[ObjectRef] = set()
        """Other Services that want what the last change claimed or gave up."""
        self.flipped: set[ObjectRef] = set()
        """Services of which the last change altered how a group stands."""

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change; `contenders` and `flipped` then say what it means for others."""
        self.contenders, self.flipped = set(), set()
        if isinstance(old, Service):
            self._claim(old, -1)
        if isinstance(new, Service):
            self._claim(new, 1)
        slices = [(each, step) for each, step in ((old, -1), (new, 1)) if isinstance(each, EndpointSlice)]
        if slices:
            self._recount([(self._groups(each), _share(each, self._node), step) for each, step in slices])

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
        for kind, address in addresses(service) if service.served else ():
            if kind > FrontendKind.NODE_PORT:
                others = tuple(ref for ref in self._asking.get(address, ()) if ref != service.ref)
                self._asking[address] = (*others, service.ref) if step > 0 else others
                if not self._asking[address]:
                    del self._asking[address]

    def _groups(self, found: EndpointSlice) -> list[Group]:
        if not found.endpoints:
            return []
        family = family_of(found.endpoints[0].address)
        return [Group(found.service, family, port.name, port.protocol) for port in found.ports]

    def _recount(self, shares: list[tuple[list[Group], _Share, int]]) -> None:
        """Count slices in and out."""
        if len(shares) == 2 and shares[0][:2] == shares[1][:2]:
            # An endpoint was replaced by another: that is most of what happens, and nothing to the group as a whole.
            return
        before = {group: self.standing(group) for groups, _, _ in shares for group in groups}
        for groups, share, step in shares:
            for group in groups:
                tally = self._tallies.setdefault(group, _Tally())
                tally.add(share, step)
                if not tally.ready:
                    del self._tallies[group]
        self.flipped.update(group.service for group, standing in before.items() if self.standing(group) != standing)

    def claimants(self, claim: Claim) -> Sequence[Claimant]:
        """Who asks for this address and port; of those that may have it the first one gets it."""
        return self._claimants.get(claim, ())

    def asking(self, address: bytes) -> Sequence[ObjectRef]:
        """The Services that ask for this address as an external or load balancer address, whoever gets it."""
        return self._asking.get(address, ())

    def standing(self, group: Group) -> Standing:
        """How a group stands as a whole."""
        tally = self._tallies.get(group)
        return tally.standing() if tally is not None else _NOBODY
