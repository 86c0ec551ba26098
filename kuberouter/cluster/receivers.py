"""Which pods of this node answer clients directly: endpoints of Services that ask for it, by the pod's address."""

from __future__ import annotations

from collections.abc import Iterable

from kuberouter.model.cluster import ClusterObject, EndpointSlice, LocalPod, Service
from kuberouter.model.core import ObjectRef

_NONE: frozenset[bytes] = frozenset()


def _service_of(each: ClusterObject) -> ObjectRef | None:
    return each.service if isinstance(each, EndpointSlice) else None


class ReceiverIndex:
    """Endpoints of this node, whether they are ready or not, and the Services among theirs with direct return."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._direct: set[ObjectRef] = set()
        self._slices: dict[ObjectRef, dict[ObjectRef, frozenset[bytes]]] = {}
        """By Service and slice the addresses of endpoints of this node."""
        self._services: dict[bytes, dict[ObjectRef, int]] = {}
        """By such an address, in how many slices of which Services it is."""
        self._pods: dict[bytes, set[ObjectRef]] = {}
        self.touched: frozenset[bytes] = _NONE
        """Addresses of endpoints of this node for which the last change altered where they may answer directly."""

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change. What has nothing to do with this node leaves no trace."""
        self.touched = _NONE
        match old if new is None else new:
            case EndpointSlice():
                self._slice(old, new)
            case Service(ref=ref):
                self._service(ref, old, new)
            case LocalPod():
                for pod, step in ((old, -1), (new, 1)):
                    if isinstance(pod, LocalPod) and pod.node == self._node:
                        self._place(pod, step)

    def _service(self, ref: ObjectRef, old: ClusterObject | None, new: ClusterObject | None) -> None:
        before = old is not None and isinstance(old, Service) and old.options.dsr
        after = new is not None and isinstance(new, Service) and new.options.dsr
        if before or after:
            self._direct.add(ref)
            self.touched = frozenset(self.addresses(ref))
        if not after:
            self._direct.discard(ref)

    def _slice(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        before, after = self._local(old), self._local(new)
        if not before and not after:
            return
        same = old is not None and new is not None and _service_of(old) == _service_of(new)
        if same and before == after:
            return
        touched: frozenset[bytes] = _NONE
        for each, addresses, step in ((old, before, -1), (new, after, 1)):
            if each is not None and isinstance(each, EndpointSlice):
                self._count(each, addresses, step)
                touched |= addresses if each.service in self._direct else _NONE
        self.touched = touched - (before & after) if same else touched

    def _local(self, each: ClusterObject | None) -> frozenset[bytes]:
        if each is None or not isinstance(each, EndpointSlice):
            return _NONE
        node = self._node
        found = [e.address for e in each.endpoints if e.node == node]
        return frozenset(found) if found else _NONE

    def _count(self, found: EndpointSlice, addresses: frozenset[bytes], step: int) -> None:
        slices = self._slices.setdefault(found.service, {})
        if step > 0 and addresses:
            slices[found.ref] = addresses
        else:
            slices.pop(found.ref, None)
        if not slices:
            del self._slices[found.service]
        for address in addresses:
            services = self._services.setdefault(address, {})
            services[found.service] = services.get(found.service, 0) + step
            if not services[found.service]:
                del services[found.service]
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
        if service not in self._direct:
            return ()
        return dict.fromkeys(address for found in self._slices.get(service, {}).values() for address in sorted(found))

    def services(self, address: bytes) -> Iterable[ObjectRef]:
        """The Services with direct return that have this address as an endpoint on this node, in order."""
        found = [ref for ref in self._services.get(address, ()) if ref in self._direct]
        return sorted(found, key=lambda ref: (ref.namespace, ref.name))

    def pods(self, address: bytes) -> Iterable[ObjectRef]:
        """The pods of this node, of kind `LocalPod`, that have an address."""
        return tuple(self._pods.get(address, ()))
