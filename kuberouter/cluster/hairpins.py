"""Whether any Service asks that its endpoints can reach themselves."""

from __future__ import annotations

from kuberouter.model.cluster import ClusterObject, Service
from kuberouter.model.core import ObjectRef


class HairpinIndex:
    """The Services that ask for it."""

    def __init__(self) -> None:
        self._asking: set[ObjectRef] = set()
        self.flipped = False
        """The last change was the first to ask, or the last to stop."""

    @property
    def wanted(self) -> bool:
        """Whether anybody asks."""
        return bool(self._asking)

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change."""
        before = bool(self._asking)
        if old is not None and isinstance(old, Service):
            self._asking.discard(old.ref)
        if isinstance(new, Service) and new.options.hairpin and new.served:
            self._asking.add(new.ref)
        self.flipped = bool(self._asking) != before
