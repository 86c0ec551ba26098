"""Which link of the host leads to which pod of this node, by the addresses that both tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kuberouter.cluster.selectors import enforceable
from kuberouter.model.cluster import ClusterObject, Pod, PodLink
from kuberouter.model.core import ObjectRef

T = TypeVar("T")
NONE: frozenset[bytes] = frozenset()


class BindingIndex:
    """Pods and links by address. Where two links claim an address the older claim counts."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._by_name: dict[str, PodLink] = {}
        self._links: dict[bytes, list[str]] = {}
        self._pods: dict[bytes, list[ObjectRef]] = {}
        self.touched: set[ObjectRef] = set()
        """Pods of this node that the last `update` may have bound or freed."""

    def link_of(self, pod: Pod) -> PodLink | None:
        """The link that leads to a pod, if it is known."""
        found = [links[0] for address in pod.addresses if (links := self._links.get(address))]
        return self._by_name[found[0]] if found else None

    def pods_at(self, address: bytes) -> Iterable[ObjectRef]:
        """The pods of this node with an address."""
        return tuple(self._pods.get(address, ()))

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change."""
        self.touched = set()
        match new if new is not None else old:
            case PodLink(ref=ref):
                self._link(
                    ref.name, old if isinstance(old, PodLink) else None, new if isinstance(new, PodLink) else None
                )
            case Pod(ref=ref):
                before, after = self._addresses(old), self._addresses(new)
                if not before and not after:
                    # A pod of another node, as nearly all are.
                    return
                for address in before - after:
                    self._drop(self._pods, address, ref)
                for address in after - before:
                    self._pods.setdefault(address, []).append(ref)
                self.touched.add(ref)

    def _link(self, name: str, old: PodLink | None, new: PodLink | None) -> None:
        before, after = (set(link.addresses) if link is not None else set() for link in (old, new))
        if new is None:
            del self._by_name[name]
        else:
            self._by_name[name] = new
        for address in before - after:
            self._drop(self._links, address, name)
        for address in after - before:
            self._links.setdefault(address, []).append(name)
        for address in before | after:
            self.touched.update(self._pods.get(address, ()))

    def _addresses(self, pod: ClusterObject | None) -> frozenset[bytes]:
        if isinstance(pod, Pod) and pod.node == self._node and enforceable(pod):
            return frozenset(pod.addresses)
        return NONE

    @staticmethod
    def _drop(claims: dict[bytes, list[T]], address: bytes, who: T) -> None:
        claims[address].remove(who)
        if not claims[address]:
            del claims[address]
