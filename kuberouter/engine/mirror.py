"""What one table of the kernel is known to hold, stored as its difference from what is desired.

A second copy of every row would double the memory; almost always the kernel holds exactly the desired row, so only
the exceptions are kept: the keys that still have to be written, each with the row that the kernel holds.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from kuberouter.engine.ledger import diff
from kuberouter.model.core import Batch, Row

R = TypeVar("R", bound=Row)

FIRST_RETRY = 0.5
LAST_RETRY = 60.0
"""Seconds before a failed row is tried again: doubled from the first to the last value."""


class Mirror(Generic[R]):
    """The kernel's side of one table."""

    __slots__ = ("_attempts", "_due", "_pending", "failures", "instead")

    def __init__(self) -> None:
        self._pending: dict[Hashable, R | None] = {}
        self._due: dict[Hashable, float] = {}
        self._attempts: dict[Hashable, int] = {}
        self.failures: dict[Hashable, str] = {}
        """Keys whose last write failed, with the error text."""
        self.instead: dict[Hashable, str] = {}
        """Keys where something stands in for what is desired and cannot be had, with what that is."""

    @property
    def pending(self) -> int:
        """Number of keys where kernel and desire differ, as far as known."""
        return len(self._pending)

    @property
    def unwritten(self) -> Collection[Hashable]:
        """The keys where they differ. A live view: do not keep it across writes."""
        return self._pending.keys()

    def note(self, previous: dict[Hashable, R | None]) -> None:
        """The desired rows of these keys changed; these were desired, and so in the kernel, until now.

        The mirror may keep the dictionary and change it: a copy of one that names a whole cluster takes its time.
        """
        pending, due = self._pending, self._due
        if not due and not pending:
            self._pending = previous
            return
        if not due and pending.keys().isdisjoint(previous):
            pending.update(previous)
            return
        for key, row in previous.items():
            pending.setdefault(key, row)
            due.pop(key, None)

    def standing(self, desired: Mapping[Hashable, R]) -> bool:
        """Whether the kernel holds every desired row, as far as known; what stands in for a refused one will do."""
        return next(self.lacks(desired), None) is None

    def lacks(self, desired: Mapping[Hashable, R]) -> Iterator[Hashable]:
        """The keys of desired rows that the kernel does not hold, as far as known, and nothing in their place."""
        for key in self._pending:
            if key in desired and (key not in self.failures or getattr(desired[key], "fallback", None) is None):
                yield key

    def refresh(self, actual: Mapping[Hashable, R], desired: Mapping[Hashable, R]) -> int:
        """The kernel was read. Returns in how many keys it differs from what is desired.

        What stands in for something else is no difference, but tried again.
        """
        pending: dict[Hashable, R | None] = {}
        # Nearly always they are equal, and that is found out three times as fast.
        if not actual:
            pending = dict.fromkeys(desired)
        elif actual != desired:
            pending = {key: row for key, row in actual.items() if desired.get(key) != row}
            pending.update((key, None) for key in desired if key not in actual)
        self._pending = pending
        for book in (self._due, self._attempts, self.failures, self.instead):
            for key in [key for key in book if key not in pending]:
                del book[key]
        return len(pending) - len(self.instead)

    def batch(self, desired: Mapping[Hashable, R], now: float) -> Batch[R]:
        """Everything that should be written now; rows that failed wait for their turn."""
        due, actual = self._due, self._pending
        if due:
            actual = {key: row for key, row in actual.items() if due.get(key, now) <= now}
        batch = diff(desired, actual)
        if len(batch) < len(actual):
            named = set(_keys(batch))
            self._settled([key for key in actual if key not in named])
        return batch

    def wrote(
        self, batch: Batch[R], failed: Mapping[Hashable, str], now: float, instead: Mapping[Hashable, str] | None = None
    ) -> None:
        """A batch was written; `failed` names the keys that were not applied, `instead` those that were in part."""
        if self.instead or instead:
            for key in _keys(batch):
                self.instead.pop(key, None)
            self.instead.update(instead or {})
        if not failed and len(batch) == len(self._pending):
            # Everything: so it is at a start, and nearly always.
            self._settle_all()
            return
        keys = _keys(batch)
        self._settled([key for key in keys if key not in failed])
        for key in keys if failed else ():
            if (error := failed.get(key)) is not None:
                attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
                self._due[key] = now + min(LAST_RETRY, FIRST_RETRY * 2.0 ** (attempts - 1))
                self.failures[key] = error

    def _settled(self, keys: Collection[Hashable]) -> None:
        pending, failures = self._pending, self.failures
        for key in keys:
            pending.pop(key, None)
            if failures or self._due or self._attempts:
                self._due.pop(key, None)
                self._attempts.pop(key, None)
                failures.pop(key, None)
        if not pending:
            self._settle_all()

    def _settle_all(self) -> None:
        # Not emptied but made anew: a book keeps the room that it took, and at a start that is room for everything.
        self._pending = {}
        for book in (self._due, self._attempts, self.failures):
            book.clear()

    def hasten(self) -> None:
        """Try failed rows with the next write; what fails again waits as long as it would have."""
        self._due.clear()

    def next_due(self) -> float | None:
        """When the next failed row wants to be tried again."""
        return min(self._due.values(), default=None)


def _keys(batch: Batch[R]) -> list[Hashable]:
    return [row.key for row in (*batch.add, *(new for _, new in batch.change), *batch.remove)]
