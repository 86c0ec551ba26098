"""Which endpoints of a Service on this node are ready for new connections, kept up to date slice by slice.

What a load balancer's health check asks of a node: it counts pods of the whole Service, not of one of its ports.
"""

from __future__ import annotations

from collections import Counter

from kuberouter.model.cluster import ClusterObject, EndpointCondition, EndpointSlice
from kuberouter.model.core import ObjectRef, family_of

_ASKED = EndpointCondition.READY.value | EndpointCondition.TERMINATING.value
_READY = EndpointCondition.READY.value
_Found = tuple[ObjectRef, ObjectRef, tuple[bytes, ...]]
"""Service, slice and addresses."""


class LocalEndpointIndex:
    """Addresses of ready endpoints of this node that are not about to go, by Service and slice."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._addresses: dict[ObjectRef, dict[ObjectRef, tuple[bytes, ...]]] = {}
        self.touched: set[ObjectRef] = set()
        """Services of which the last change altered these endpoints."""

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one slice's change. Slices without such endpoints, nearly all of a big Service, leave no trace."""
        if self.touched:
            self.touched = set()
        before = self._kept(old) if isinstance(old, EndpointSlice) else None
        after = self._found(new) if isinstance(new, EndpointSlice) else None
        if before == after:
            return
        for service, slice_ref, _ in filter(None, (before, after)):
            slices = self._addresses.get(service, {})
            slices.pop(slice_ref, None)
            if not slices:
                self._addresses.pop(service, None)
            self.touched.add(service)
        if after is not None:
            service, slice_ref, addresses = after
            self._addresses.setdefault(service, {})[slice_ref] = addresses

    def _kept(self, each: EndpointSlice) -> _Found | None:
        slices = self._addresses.get(each.service)
        addresses = slices.get(each.ref) if slices is not None else None
        return (each.service, each.ref, addresses) if addresses is not None else None

    def _found(self, each: EndpointSlice) -> _Found | None:
        node = self._node
        addresses = [e.address for e in each.endpoints if e.node == node and e.conditions & _ASKED == _READY]
        return (each.service, each.ref, tuple(addresses)) if addresses else None

    def ready(self, service: ObjectRef) -> int:
        """How many endpoints of a Service there are.

        An endpoint that several slices name is one; one with an address of each family stands in a slice of each, so
        the family with more of them counts.
        """
        addresses = {a for found in self._addresses.get(service, {}).values() for a in found}
        return max(Counter(map(family_of, addresses)).values(), default=0)
