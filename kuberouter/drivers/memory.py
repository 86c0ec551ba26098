"""Any table in a dictionary: the kernel of plans and benchmarks, and the only fake one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from kuberouter.model.core import Batch, Outcome, Row

R = TypeVar("R", bound=Row)


class MemoryDriver(Generic[R]):
    """Holds rows and counts what was written."""

    def __init__(self, rows: Iterable[R] = ()) -> None:
        self.rows: dict[Hashable, R] = {row.key: row for row in rows}

    def read(self) -> Iterable[R]:
        """All rows."""
        return list(self.rows.values())

    def owns(self, row: R) -> bool:
        """Nobody else writes here."""
        return True

    def write(self, batch: Batch[R]) -> Outcome:
        """Apply a batch; nothing ever fails."""
        for row in (*batch.add, *(new for _, new in batch.change)):
            self.rows[row.key] = row
        for row in batch.remove:
            del self.rows[row.key]
        return Outcome()
