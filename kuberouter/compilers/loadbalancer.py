"""Which Service wants which kind of load balancer address, and what its status says then."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from kuberouter.cluster.balancing import Span, merged, span_of, without
from kuberouter.decode.annotations import LB_CLASS, LB_CONDITION
from kuberouter.model.balancer import (
    AddressPool,
    BalancedService,
    BalancerSettings,
    Condition,
    ServiceStatus,
    ServiceStatusKey,
)
from kuberouter.model.core import Family, Prefix


def eligible(service: BalancedService, settings: BalancerSettings) -> bool:
    """Whether a Service is to have addresses from us."""
    ours = (LB_CLASS, "", "default") if settings.default_class else (LB_CLASS,)
    return service.balanced and service.balancer_class in ours


class Room:
    """Addresses that a pool has of one family: those that are given away, and those that may be asked for."""

    def __init__(self, name: str, blocks: Iterable[Prefix], others: Iterable[Prefix] = (), *, edges: bool) -> None:
        self.name = name
        blocks, taken = list(blocks), [span_of(other) for other in others]
        self.spans = without(merged(span_of(block, edges=edges) for block in blocks), taken)
        self._all = without(merged(map(span_of, blocks)), taken)

    def has(self, address: bytes) -> bool:
        """Whether an address belongs to the pool."""
        number = int.from_bytes(address, "big")
        return any(span.first <= number <= span.last for span in self._all)


class Rooms:
    """The pools of the settings, by family. The last, without name, is for who is in no other."""

    def __init__(self, settings: BalancerSettings) -> None:
        self._pools = settings.pools
        taken = [block for pool in settings.pools for block in pool.blocks]
        self._rooms: dict[tuple[str, Family], Room] = {}
        for family in Family:
            others = [block for block in taken if block.family is family]
            ranges = [block for block in settings.ranges if block.family is family]
            self._rooms["", family] = Room("", ranges, others, edges=settings.edges)
            for pool in settings.pools:
                blocks = [block for block in pool.blocks if block.family is family]
                self._rooms[pool.name, family] = Room(pool.name, blocks, edges=settings.edges)

    def of(self, service: BalancedService, family: Family) -> list[Room]:
        """The pools from which a Service may have an address, in the order in which they are tried."""
        names = [pool.name for pool in self._pools if _matches(pool, service)] or [""]
        rooms = [self._rooms[name, family] for name in names]
        return [room for room in rooms if room.spans]


def _matches(pool: AddressPool, service: BalancedService) -> bool:
    if pool.namespaces and service.ref.namespace not in pool.namespaces:
        return False
    return set(pool.labels) <= set(service.labels)


def usable(block: Prefix, settings: BalancerSettings) -> Span:
    """What of a range may be given away."""
    return span_of(block, edges=settings.edges)


def status(
    service: BalancedService, granted: Mapping[Family, bytes], settings: BalancerSettings, *, lacking: str, now: str
) -> ServiceStatus | None:
    """The status that a Service of ours is to have, or None if it has it. `lacking` says what it does not get.

    Items outside our ranges are somebody else's and stay. `now` is a time as the API writes it.
    """
    order = [granted[family] for family in service.families if family in granted]
    present = {item.address: item.raw for item in service.ingress if item.address in order}
    ours = [present.get(a) or json.dumps({"ip": str(ip_address(a))}).encode() for a in order]
    said = ", ".join(str(ip_address(address)) for address in order)
    told = "; ".join(filter(None, (f"has {said}" if said else "", lacking)))
    reason = "Pending" if not order else "Partial" if lacking else "Allocated"
    condition = Condition(LB_CONDITION, "True" if order else "False", reason, told)
    return _changed(service, ours, settings, condition=condition, now=now)


def left(service: BalancedService, settings: BalancerSettings) -> ServiceStatus | None:
    """The status that a Service is to have which was ours and is not any more; None if nothing of ours is in it."""
    if not any(condition.type == LB_CONDITION for condition in service.conditions):
        return None
    return _changed(service, [], settings, condition=None, now="")


def _changed(
    service: BalancedService, ours: list[bytes], settings: BalancerSettings, *, condition: Condition | None, now: str
) -> ServiceStatus | None:
    ranges = settings.ranges
    foreign = [i.raw for i in service.ingress if not any(block.covers(i.address) for block in ranges)]
    ingress = (*foreign, *ours)
    others = [c.raw for c in service.conditions if c.type != LB_CONDITION]
    old = next((c for c in service.conditions if c.type == LB_CONDITION), None)
    if condition is not None:
        same = old is not None and old.status == condition.status
        if old is not None and same and (old.reason, old.message) == (condition.reason, condition.message):
            others.append(old.raw)
        else:
            others.append(_written(condition, old.since if old is not None and same and old.since else now))
    before = {item.raw for item in service.ingress}, {c.raw for c in service.conditions}
    if (set(ingress), set(others)) == before and len(ingress) == len(service.ingress):
        return None
    key = ServiceStatusKey(service.ref.namespace, service.ref.name)
    return ServiceStatus(key, service.version, ingress, tuple(others))


def _written(condition: Condition, since: str) -> bytes:
    return json.dumps(
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": since,
        }
    ).encode()
