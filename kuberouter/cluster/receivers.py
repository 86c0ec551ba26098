"""Which pods of this node answer clients directly: endpoints of Services that ask for it, by the pod's address."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kuberouter.model.cluster import ClusterObject, EndpointSlice, LocalPod, Service
from kuberouter.model.core import ObjectRef

_NONE: frozenset[bytes] = frozenset()


class ReceiverIndex:
    """Endpoints of this node, whether they are ready or not, of Services with direct return; others leave no trace."""

    def __init__(self, node: str, slices_of: Callable[[ObjectRef], Mapping[ObjectRef, EndpointSlice]]) -> None:
        """`slices_of` tells the slices of a Service, with the last change in them."""
        self._node = node
        self._slices_of = slices_of
        self._direct: dict[ObjectRef, dict[bytes, int]] = {}
        """By Service with direct return, in how many of its slices an address of this node is."""
        self._services: dict[bytes, set[ObjectRef]] = {}
        """The same the other way round: Services by address."""
        self._pods: dict[bytes, set[ObjectRef]] = {}
        self.touched: frozenset[bytes] = _NONE
        """Addresses of endpoints of this node for which the last change altered where they may answer directly."""

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change. What has nothing to do with this node leaves no trace."""
        self.touched = _NONE
        match old if new is None else new:
            case EndpointSlice():
                if self._direct:
                    self._slice(old, new)
            case Service(ref=ref):
                self._service(ref, now=isinstance(new, Service) and new.options.dsr)
            case LocalPod():
                for pod, step in ((old, -1), (new, 1)):
                    if isinstance(pod, LocalPod) and pod.node == self._node:
                        self._place(pod, step)

    def _service(self, ref: ObjectRef, *, now: bool) -> None:
        before = ref in self._direct
        if now and not before:
            self._direct[ref] = {}
            for found in self._slices_of(ref).values():
                self._count(ref, self._local(found), 1)
        if now or before:
            self.touched = frozenset(self._direct[ref])
        if before and not now:
            for address in self.touched:
                self._leave(ref, address)
            del self._direct[ref]

    def _slice(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        before, after = self._local(old), self._local(new)
        if isinstance(old, EndpointSlice) and before:
            self._count(old.service, before, -1)
        if isinstance(new, EndpointSlice) and after:
            self._count(new.service, after, 1)
        moved = isinstance(old, EndpointSlice) and isinstance(new, EndpointSlice) and old.service != new.service
        self.touched = before | after if moved else before ^ after

    def _local(self, each: ClusterObject | None) -> frozenset[bytes]:
        """Addresses of this node in a slice of a Service with direct return."""
        if each is None or not isinstance(each, EndpointSlice) or each.service not in self._direct:
            return _NONE
        return frozenset([e.address for e in each.endpoints if e.node == self._node])

    def _count(self, service: ObjectRef, addresses: Iterable[bytes], step: int) -> None:
        slices = self._direct[service]
        for address in addresses:
            slices[address] = slices.get(address, 0) + step
            if slices[address]:
                self._services.setdefault(address, set()).add(service)
            else:
                del slices[address]
                self._leave(service, address)

    def _leave(self, service: ObjectRef, address: bytes) -> None:
        services = self._services[address]
        services.discard(service)
        if not services:
            del self._services[address]

    def _place(self, pod: LocalPod, step: int) -> None:
        for address in pod.addresses:
            pods = self._pods.setdefault(address, set())
            (pods.add if step > 0 else pods.discard)(pod.ref)
            if not pods:
                del self._pods[address]

    def addresses(self, service: ObjectRef) -> Iterable[bytes]:
        """The addresses of a Service's endpoints on this node; none if it has no direct return."""
        return self._direct.get(service, {}).keys()

    def services(self, address: bytes) -> Iterable[ObjectRef]:
        """The Services with direct return that have this address as an endpoint on this node, in order."""
        return sorted(self._services.get(address, ()), key=lambda ref: (ref.namespace, ref.name))

    def pods(self, address: bytes) -> Iterable[ObjectRef]:
        """The pods of this node, of kind `LocalPod`, that have an address."""
        return tuple(self._pods.get(address, ()))
