"""Per-Service knowledge that one slice cannot have: who else claims its addresses, and whether anybody is ready.

Kept up to date by change, so that one endpoint of a Service of 50,000 costs one slice.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from kuberouter.model.cluster import ClusterObject, EndpointCondition, EndpointSlice, Hints, Service
from kuberouter.model.core import Family, KeyValue, L4Protocol, ObjectRef, Value, family_of

_READY = EndpointCondition.READY.value


class FrontendKind(enum.IntEnum):
    """What makes a Service reachable at an address."""

    CLUSTER = 0
    NODE_PORT = 1
    LOAD_BALANCER = 2
    EXTERNAL = 3


# What every Service asks for is looked up once, not with each of them: a member of an enum is found slowly.
_CLUSTER, _NODE_PORT = FrontendKind.CLUSTER, FrontendKind.NODE_PORT


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


def addresses(service: Service) -> Sequence[tuple[FrontendKind, bytes]]:
    """The addresses that a Service asks for; one that it asks for twice comes first as what the API gave it as."""
    found: list[tuple[FrontendKind, bytes]] = []
    for address in service.cluster_ips:
        found.append((_CLUSTER, address))
    if service.load_balancer_ips and not service.options.skip_lb_ips:
        found += [(FrontendKind.LOAD_BALANCER, address) for address in service.load_balancer_ips]
    if service.external_ips:
        found += [(FrontendKind.EXTERNAL, address) for address in service.external_ips]
    return found


def claims(service: Service) -> dict[tuple[FrontendKind, Claim], None]:
    """Everything that a Service claims, whether this node can serve it or not."""
    found: dict[tuple[FrontendKind, Claim], None] = {}
    if not service.served:
        return found
    asked = addresses(service)
    for port in service.ports:
        for kind, address in asked:
            found[kind, Claim(address, port.protocol, port.port)] = None
        if port.node_port:
            found[_NODE_PORT, Claim(b"", port.protocol, port.node_port)] = None
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

    def standing(self) -> Standing:
        """How a group stands in which there is nobody else."""
        return _alone(self)


@lru_cache(maxsize=256)
def _alone(share: _Share) -> Standing:
    zones = share.zones if share.zone_hints else _NOWHERE
    return Standing(share.ready, share.here, share.for_here and share.node_hints, zones)


_NOTHING = _Share()
_UNHINTED = {here: _Share(True, here, node_hints=False, zone_hints=False) for here in (False, True)}
"""Shares of slices in which some ready endpoint carries no hint, as it nearly always is."""


def _share(found: EndpointSlice, node: str) -> _Share:
    nodes = [e.node for e in found.endpoints if e.conditions & _READY]
    if not nodes:
        return _NOTHING
    here = node in nodes
    hints: list[Hints] = []
    for endpoint in found.endpoints:
        if endpoint.conditions & _READY:
            if endpoint.hints is None:
                # Hints count only if all have them, so what others have need not be known.
                return _UNHINTED[here]
            hints.append(endpoint.hints)
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

    __slots__ = ("_standing", "for_here", "here", "no_node", "no_zone", "ready", "zones")

    def __init__(self) -> None:
        self.ready = self.here = self.for_here = self.no_node = self.no_zone = 0
        self.zones: dict[str, int] | None = None
        self._standing: Standing | None = None

    def add(self, share: _Share, step: int) -> None:
        """Count a slice in (`step` 1) or out (-1)."""
        self._standing = None
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
        if self._standing is None:
            zones = frozenset(self.zones) if self.zones and not self.no_zone else _NOWHERE
            self._standing = Standing(self.ready > 0, self.here > 0, self.for_here > 0 and not self.no_node, zones)
        return self._standing


_NOWHERE: frozenset[str] = frozenset()
_NOBODY = Standing()


def _groups(found: EndpointSlice) -> list[Group]:
    if not found.endpoints:
        return []
    family = family_of(found.endpoints[0].address)
    return [Group(found.service, family, port.name, port.protocol) for port in found.ports]


def _same_groups(old: EndpointSlice, new: EndpointSlice) -> bool:
    """Whether two states of a slice with endpoints belong to the same groups."""
    if old.ports != new.ports or old.service != new.service:
        return False
    return len(old.endpoints[0].address) == len(new.endpoints[0].address)


class FrontendIndex:
    """Claims by Service, and how each group of endpoints stands over all slices."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._claimants: dict[Claim, list[Claimant]] = {}
        self._outside: dict[tuple[L4Protocol, int], dict[ObjectRef, int]] = {}
        """By port, the Services that ask for it at an address which may be the node's own, and at how many."""
        self._asking: dict[bytes, tuple[ObjectRef, ...]] = {}
        """By external or load balancer address, the Services that ask for it."""
        self._tallies: dict[Group, _Share | _Tally] = {}
        """Of most groups there is one slice, so that there is nothing to count: it stands for itself."""
        self._shares: dict[ObjectRef, _Share] = {}
        """Of each slice that counts, what it brings."""
        self.contenders: set[ObjectRef] = set()
        """Other Services that want what the last change claimed or gave up."""
        self.flipped: set[ObjectRef] = set()
        """Services of which the last change altered how a group stands."""

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change; `contenders` and `flipped` then say what it means for others."""
        if self.contenders:
            self.contenders = set()
        if self.flipped:
            self.flipped = set()
        if isinstance(old, Service):
            self._claim(old, -1)
        if isinstance(new, Service):
            self._claim(new, 1)
            return
        before = old if isinstance(old, EndpointSlice) else None
        after = new if isinstance(new, EndpointSlice) else None
        if before is not None or after is not None:
            self._slice(before, after)

    def _claim(self, service: Service, step: int) -> None:
        ref = service.ref
        for kind, claim in claims(service):
            self._enter(claim, (kind, service.created, ref), step)
            place = (claim.protocol, claim.port)
            if kind is _NODE_PORT:
                # On the node's own addresses a node port goes before what Services ask for themselves.
                self.contenders.update(self._outside.get(place, ()))
            elif kind is not _CLUSTER:
                users = self._outside.setdefault(place, {})
                users[ref] = users.get(ref, 0) + step
                if not users[ref]:
                    del users[ref]
                    if not users:
                        del self._outside[place]
        self.contenders.discard(ref)
        if not (service.external_ips or service.load_balancer_ips):
            return
        for kind, address in addresses(service):
            if kind > _NODE_PORT:
                others = tuple(other for other in self._asking.get(address, ()) if other != ref)
                self._asking[address] = (*others, ref) if step > 0 else others
                if not self._asking[address]:
                    del self._asking[address]

    def _enter(self, claim: Claim, entry: Claimant, step: int) -> None:
        """Count a claim in or out; all others who want the same are contenders."""
        entries = self._claimants.get(claim)
        if entries is None:
            self._claimants[claim] = [entry]
            return
        if step > 0:
            entries.append(entry)
            entries.sort(key=_precedence)
        else:
            entries.remove(entry)
        self.contenders.update([ref for _, _, ref in entries])
        if not entries:
            del self._claimants[claim]

    def _slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        """Count a slice as it was out, and as it is in."""
        out = self._shares.pop(old.ref, _NOTHING) if old is not None else _NOTHING
        in_ = _share(new, self._node) if new is not None else _NOTHING
        if new is not None and in_ is not _NOTHING:
            self._shares[new.ref] = in_
        if old is None and new is not None and self._begins(new, in_):
            return
        if out == in_ and (out is _NOTHING or (old is not None and new is not None and _same_groups(old, new))):
            # An endpoint was replaced by another: that is most of what happens, and nothing to the group as a whole.
            return
        before: dict[Group, Standing] = {}
        tallies = self._tallies
        for each, share, step in ((old, out, -1), (new, in_, 1)):
            if each is None or share is _NOTHING:
                continue
            for group in _groups(each):
                tally = tallies.get(group)
                if tally is None:
                    before.setdefault(group, _NOBODY)
                    if step > 0:
                        tallies[group] = share
                    continue
                if group not in before:
                    before[group] = tally.standing()
                if isinstance(tally, _Share):
                    first, tally = tally, _Tally()
                    tally.add(first, 1)
                    tallies[group] = tally
                tally.add(share, step)
                if not tally.ready:
                    del tallies[group]
        for group, standing in before.items():
            if self.standing(group) != standing:
                self.flipped.add(group.service)

    def _begins(self, new: EndpointSlice, share: _Share) -> bool:
        """Take in a new slice if it is the first of all its groups, as most are at a start. Else do nothing."""
        if share is _NOTHING:
            return True
        groups = _groups(new)
        tallies = self._tallies
        for group in groups:
            if group in tallies:
                return False
        for group in groups:
            tallies[group] = share
        # Nobody was ready there, and now somebody is.
        self.flipped.add(new.service)
        return True

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
