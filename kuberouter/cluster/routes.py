"""Which nodes have an address, and which learned routes lead through it: so that a node's change touches only those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from kuberouter.model.cluster import ClusterObject, LearnedRoute, Node
from kuberouter.model.core import ObjectRef


def digits(address: bytes) -> str:
    """An address as text without separators; not unique, and what tunnels were always named after."""
    return str(ip_address(address)).replace(".", "").replace(":", "")


def node_addresses(node: Node) -> tuple[bytes, ...]:
    """All addresses of a node, the primary one first."""
    return (*node.internal_addresses, *node.external_addresses)


class RouteIndex:
    """Kept up to date by the store."""

    def __init__(self) -> None:
        self._nodes: dict[bytes, set[ObjectRef]] = {}
        self._routes: dict[bytes, set[ObjectRef]] = {}
        self._alike: dict[str, set[bytes]] = {}

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one change."""
        if isinstance(old, Node):
            for address in node_addresses(old):
                if not _drop(self._nodes, address, old.ref):
                    self._forget(address)
        if isinstance(new, Node):
            for address in node_addresses(new):
                self._nodes.setdefault(address, set()).add(new.ref)
                self._alike.setdefault(digits(address), set()).add(address)
        if isinstance(old, LearnedRoute):
            for next_hop in old.next_hops:
                _drop(self._routes, next_hop, old.ref)
        if isinstance(new, LearnedRoute):
            for next_hop in new.next_hops:
                self._routes.setdefault(next_hop, set()).add(new.ref)

    def _forget(self, address: bytes) -> None:
        text = digits(address)
        if (alike := self._alike.get(text)) is not None:
            alike.discard(address)
            if not alike:
                del self._alike[text]

    def has_node(self, address: bytes) -> bool:
        """Whether some node has this address."""
        return address in self._nodes

    def routes_via(self, address: bytes) -> Iterable[ObjectRef]:
        """The learned routes with this next hop."""
        return tuple(self._routes.get(address, ()))

    def alike(self, address: bytes) -> Sequence[bytes]:
        """The nodes' addresses that look like this one without separators, in order."""
        return sorted(self._alike.get(digits(address), ()))


def _drop(index: dict[bytes, set[ObjectRef]], key: bytes, ref: ObjectRef) -> bool:
    """Remove a reference; returns whether others are left."""
    refs = index.get(key)
    if refs is None:
        return False
    refs.discard(ref)
    if not refs:
        del index[key]
    return bool(refs)
