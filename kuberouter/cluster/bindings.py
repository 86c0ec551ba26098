"""Which link of the host leads to which pod of this node, by the addresses that both tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from kuberouter.cluster.selectors import enforceable
from kuberouter.model.cluster import ClusterObject, Pod, PodLink
from kuberouter.model.core import ObjectRef

T = TypeVar("T")
NONE: frozenset[bytes] = frozenset()


class BindingIndex:
    """Pods and links by address.

    Where several links claim a pod, the oldest claim counts of those that were witnessed; if none was, the link that
    has most of the pod's addresses. If several have, nobody can tell which it is: a pod may have taken the addresses of
    another before we came.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._by_name: dict[str, PodLink] = {}
        self._links: dict[bytes, list[str]] = {}
        self._pods: dict[bytes, list[ObjectRef]] = {}
        self.touched: set[ObjectRef] = set()
        """Pods of this node that the last `update` may have bound or freed."""

    def link_of(self, pod: Pod) -> PodLink | None:
        """The link that leads to a pod, if it is known."""
        found = self._claims(pod)
        return found[0] if len(found) == 1 else None

    def disputed(self, pod: Pod) -> tuple[PodLink, ...]:
        """The links that claim a pod, if nobody can tell which of them leads to it."""
        found = self._claims(pod)
        return tuple(found) if len(found) > 1 else ()

    def _claims(self, pod: Pod) -> list[PodLink]:
        """Which links may lead to a pod, as far as that can be told."""
        agreed = Counter(name for address in pod.addresses for name in self._links.get(address, ()))
        links = [self._by_name[name] for name in agreed]
        if len(links) < 2:
            return links
        if witnessed := [link for link in links if link.witnessed]:
            return witnessed[:1]
        most = max(agreed.values())
        return [link for link in links if agreed[link.ref.name] == most]

    def pods_at(self, address: bytes) -> Iterable[ObjectRef]:
        """The pods of this node with an address."""
        return tuple(self._pods.get(address, ()))

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change."""
        if self.touched:
            self.touched = set()
        match new if new is not None else old:
            case PodLink(ref=ref):
                self._link(
                    ref.name, old if isinstance(old, PodLink) else None, new if isinstance(new, PodLink) else None
                )
            case Pod(ref=ref):
                before = self._addresses(old) if old is not None else NONE
                after = self._addresses(new) if new is not None else NONE
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

    def _addresses(self, pod: ClusterObject) -> frozenset[bytes]:
        if isinstance(pod, Pod) and pod.node == self._node and enforceable(pod):
            return frozenset(pod.addresses)
        return NONE

    @staticmethod
    def _drop(claims: dict[bytes, list[T]], address: bytes, who: T) -> None:
        claims[address].remove(who)
        if not claims[address]:
            del claims[address]
