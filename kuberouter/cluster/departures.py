"""Destinations that departed, and how long the pods behind addresses may take to end."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from kuberouter.model.cluster import ClusterObject, Departed, Pod
from kuberouter.model.core import ObjectRef
from kuberouter.model.ipvs import Destination, DestinationKey, VirtualServiceKey


def depart(row: Destination, since: float) -> Departed:
    """The object that stands for a destination from the moment `since` on."""
    return Departed(ObjectRef("Departed", "", f"{_name(row.key)} since {since:.6f}"), row.key, row.forward, since)


def _name(key: DestinationKey) -> str:
    service = key.service
    if service.mark:
        place = f"{service.family.name} mark {service.mark}"
    else:
        place = f"{service.protocol.name} {ip_address(service.address)} port {service.port}"
    return f"{ip_address(key.address)} port {key.port} of {place}"


class DepartureIndex:
    """Departed destinations by key, and by the virtual service that they belong to."""

    def __init__(self) -> None:
        self._by_key: dict[DestinationKey, Departed] = {}
        self._by_service: dict[VirtualServiceKey, set[DestinationKey]] = {}

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change."""
        if isinstance(old, Departed):
            del self._by_key[old.key]
            keys = self._by_service[old.key.service]
            keys.discard(old.key)
            if not keys:
                del self._by_service[old.key.service]
        if isinstance(new, Departed):
            self._by_key[new.key] = new
            self._by_service.setdefault(new.key.service, set()).add(new.key)

    def at(self, key: DestinationKey) -> Departed | None:
        """The departed destination of this key."""
        return self._by_key.get(key)

    def of(self, service: VirtualServiceKey) -> Iterable[Departed]:
        """Those of one virtual service."""
        return [self._by_key[key] for key in self._by_service.get(service, ())]

    def all(self) -> tuple[Departed, ...]:
        """All of them. May be asked from any thread: the interpreter copies the values of a dictionary in one go."""
        return tuple(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)


class GraceIndex:
    """Pods that run, by address. The node's own address is that of all its pods in the host's network."""

    def __init__(self) -> None:
        self._pods: dict[bytes, tuple[Pod, ...]] = {}

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change."""
        if isinstance(old, Pod):
            for address in set(old.addresses):
                left = tuple(pod for pod in self._pods.get(address, ()) if pod.ref != old.ref)
                if left:
                    self._pods[address] = left
                else:
                    self._pods.pop(address, None)
        if isinstance(new, Pod) and not new.finished:
            for address in set(new.addresses):
                self._pods[address] = (*self._pods.get(address, ()), new)

    def at(self, address: bytes) -> int | None:
        """The longest grace period of the pods at an address in seconds; None where there is none that is known."""
        return max((pod.grace for pod in self._pods.get(address, ())), default=None)
