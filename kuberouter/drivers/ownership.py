"""Whose virtual services those in the kernel are: both IPVS tables ask here, so that they never disagree.

The kernel keeps a flag bit that it does not know, and dumps it: that is our mark. Somebody who edits a service clears
it, so its absence proves nothing: a service that is wanted is ours all the same, and marked anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from kuberouter.model.core import Prefix
from kuberouter.model.ipvs import VirtualServiceKey

OWNED = 0x4000_0000
"""The flag bit: no kernel defines it and ipvsadm(8) does not show it."""


FRESH = 5.0
"""Seconds for which a look may serve the second table as well."""


def inside(prefixes: Iterable[Prefix], address: bytes) -> bool:
    """Whether a packed address is in any of the CIDR blocks."""
    return any(prefix.covers(address) for prefix in prefixes)


class GoServices(NamedTuple):
    """How the virtual services are told that the Go kube-router has left: no mark in the kernel says whose they are.

    Those at addresses that it has left, and then also those of its node ports: at addresses that the node has anyway.
    """

    left: Callable[[], Collection[bytes]]
    """Addresses that it has left on our link; where there are none it has not been here."""
    local: Callable[[], Collection[bytes]]
    """Every address of the node, loopback ones too: it binds node ports there as well."""
    node_ports: tuple[int, int]
    """First and last."""
    plain: Callable[[VirtualServiceKey], bool]
    """Whether all destinations of a service are as it makes them."""

    def among(self, keys: Iterable[VirtualServiceKey]) -> frozenset[VirtualServiceKey]:
        """Those of some services without our mark that it has left."""
        left = self.left()
        if not left:
            return frozenset()
        local, (first, last) = self.local(), self.node_ports
        return frozenset(
            key
            for key in keys
            if key.address in left or (first <= key.port <= last and key.address in local and self.plain(key))
        )


def _nothing(keys: Iterable[VirtualServiceKey]) -> frozenset[VirtualServiceKey]:
    return frozenset()


class Ownership:
    """`wanted` says whether a service is desired now, `former` which of some the Go kube-router has left behind.

    Nothing in an excluded CIDR is ours unless it is wanted.
    """

    def __init__(
        self,
        wanted: Callable[[VirtualServiceKey], bool] = lambda key: False,
        *,
        former: Callable[[Iterable[VirtualServiceKey]], frozenset[VirtualServiceKey]] = _nothing,
        excluded: Collection[Prefix] = (),
    ) -> None:
        self._wanted = wanted
        self._former = former
        self._excluded = tuple(excluded)
        self._seen: tuple[VirtualServiceKey, ...] = ()
        self._at = -FRESH
        self._marked: frozenset[VirtualServiceKey] = frozenset()
        self._adopted: frozenset[VirtualServiceKey] | None = None

    def look(self, services: Iterable[tuple[VirtualServiceKey, int]]) -> None:
        """Take in what the kernel holds, as keys with flags.

        The first look of a process decides about a take-over, whatever others bear our mark: a process that ended in
        the middle of one has marked what is wanted and left the rest. Whoever makes such a service later has made it
        for himself.
        """
        found = dict(services)
        self._seen, self._at = tuple(found), time.monotonic()
        self._marked = frozenset(key for key, flags in found.items() if flags & OWNED)
        if self._adopted is None:
            self._adopted = self._former([key for key in found if key not in self._marked])
        self._adopted &= found.keys()

    def just_seen(self) -> tuple[VirtualServiceKey, ...] | None:
        """The services of the last look, once and only right after it: both tables are read one after the other."""
        at, self._at = self._at, -FRESH
        return self._seen if time.monotonic() - at < FRESH else None

    def changed(self) -> None:
        """Something was written, so the last look is past."""
        self._at = -FRESH

    def ours(self, key: VirtualServiceKey) -> bool:
        """Whether a service that was seen in the last look is ours to change and to remove."""
        if self._wanted(key):
            return True
        if inside(self._excluded, key.address):
            return False
        return key in self._marked or key in (self._adopted or ())

    def marked(self, key: VirtualServiceKey) -> bool:
        """Whether it bore our mark."""
        return key in self._marked

    def excluded(self, address: bytes) -> bool:
        """Whether an address is in an excluded CIDR."""
        return bool(self._excluded) and inside(self._excluded, address)
