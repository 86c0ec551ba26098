"""Whose virtual services those in the kernel are: both IPVS tables ask here, so that they never disagree.

The kernel keeps a flag bit that it does not know, and dumps it: that is our mark. Somebody who edits a service clears
it, so its absence proves nothing: a service that is wanted is ours all the same, and marked anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from kuberouter.model.core import Prefix
from kuberouter.model.ipvs import VirtualServiceKey

OWNED = 0x4000_0000
"""The flag bit: no kernel defines it and ipvsadm(8) does not show it."""


FRESH = 5.0
"""Seconds for which a look may serve the second table as well."""


def inside(prefixes: Iterable[Prefix], address: bytes) -> bool:
    """Whether a packed address is in any of the CIDR blocks."""
    return any(prefix.covers(address) for prefix in prefixes)


class Ownership:
    """`wanted` says whether a service is desired now; `former_addresses` are those that the Go kube-router left behind.

    Nothing in an excluded CIDR is ours unless it is wanted.
    """

    def __init__(
        self,
        wanted: Callable[[VirtualServiceKey], bool] = lambda key: False,
        *,
        former_addresses: Callable[[], Collection[bytes]] = frozenset,
        excluded: Collection[Prefix] = (),
    ) -> None:
        self._wanted = wanted
        self._former_addresses = former_addresses
        self._excluded = tuple(excluded)
        self._seen: tuple[VirtualServiceKey, ...] = ()
        self._at = -FRESH
        self._marked: frozenset[VirtualServiceKey] = frozenset()
        self._adopted: frozenset[VirtualServiceKey] | None = None

    def look(self, services: Iterable[tuple[VirtualServiceKey, int]]) -> None:
        """Take in what the kernel holds, as keys with flags.

        The first look of a process decides about a take-over: only where no service bears our mark has none of us been
        here before, and those at addresses of the Go kube-router are what it left.
        """
        found = dict(services)
        self._seen, self._at = tuple(found), time.monotonic()
        self._marked = frozenset(key for key, flags in found.items() if flags & OWNED)
        if self._adopted is None:
            former = frozenset() if self._marked or not found else frozenset(self._former_addresses())
            self._adopted = frozenset(key for key in found if key.address in former)

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
        return inside(self._excluded, address)
