"""How chains of ours looked when they were first read after they were written: what their tag cannot tell.

A tag stands in the first rule only. Who replaces another one leaves it and the number of rules as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from kuberouter.model.netfilter import OTHERWISE
from kuberouter.wire.text.tags import SavedChain

K = TypeVar("K")


class Looks(Generic[K]):
    """The looks of chains by their keys."""

    def __init__(self) -> None:
        self._known: dict[K, int] = {}

    def judged(self, chains: Iterable[tuple[K, SavedChain]]) -> Iterator[tuple[K, bytes]]:
        """The tags of all chains that there are; of one that looks otherwise than before one that no rules have."""
        known, self._known = self._known, {}
        for key, chain in chains:
            look = self._known[key] = known.get(key) or chain.look
            yield key, chain.tag if chain.look in (0, look) else OTHERWISE

    def forget(self, keys: Iterable[K]) -> None:
        """Chains are written or emptied, and will look otherwise.

        If this were not said, what was wrong when it was first read would be written for ever.
        """
        for key in keys:
            self._known.pop(key, None)
