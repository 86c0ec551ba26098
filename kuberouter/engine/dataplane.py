"""Writes what changed, in stage order, and reads back what exists.

The event path and the audit are the same code: both leave a difference in the mirror of a table, and `converge` writes
it. A row that fails is retried with backoff while the others go on; a table whose counterpart is missing as a whole is
read again, with backoff, until it answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from kuberouter.engine.ledger import Ledger
from kuberouter.engine.mirror import FIRST_RETRY, LAST_RETRY, Mirror
from kuberouter.engine.planner import Changes
from kuberouter.engine.stages import (
    CONTENTS,
    READ_TOGETHER,
    REFERENCES,
    STANDING_BEFORE,
    STEPS,
    SUCCESSORS,
    TRIED_BEFORE,
    Action,
)
from kuberouter.model.core import Batch, Outcome, Row, Unavailable
from kuberouter.model.ports import Driver, Filler

R = TypeVar("R", bound=Row)


class Table(Generic[R]):
    """One table: its driver, what is known of the kernel's side, and what has to be in sync before rows go."""

    def __init__(
        self,
        row: type[R],
        driver: Driver[R],
        *,
        removal_needs: Collection[str] = (),
        read_needs: Collection[str] = (),
        addition_needs: Collection[str] = (),
        inherit: Callable[[Collection[R]], None] = lambda _: None,
    ) -> None:
        """`inherit` is told, once, which rows were there before this process, before anything is removed."""
        self.row = row
        self.driver = driver
        self.removal_needs = frozenset(removal_needs)
        """Sources that must be in sync before anything is removed."""
        self.read_needs = frozenset(read_needs)
        """Sources that must be in sync before the first read: what is ours may depend on what is wanted."""
        self.addition_needs = frozenset(addition_needs)
        """Sources that must be in sync before anything is added, where that waits for other tables."""
        self.inherit = inherit
        self.mirror: Mirror[R] = Mirror()
        self.read = False
        """The kernel's side is known; False also after a failure that left it unknown."""
        self.error = ""
        """Why the table is not available as a whole; empty when it is."""
        self.last_read: float | None = None
        self._attempts = 0
        self.retry_at = 0.0

    def lost(self, error: str, now: float) -> None:
        """The counterpart is missing or its state unknown: forget it, read again later."""
        self.read = False
        self.error = error
        self._attempts += 1
        self.retry_at = now + min(LAST_RETRY, FIRST_RETRY * 2.0 ** (self._attempts - 1))

    def found(self, now: float) -> None:
        """The counterpart was read."""
        self.read = True
        self.error = ""
        self.last_read = now
        self._attempts = 0
        self.retry_at = 0.0


class Report:
    """What one pass did: rows written and failed per table, in stage order."""

    __slots__ = ("batches", "controllers", "drift", "errors", "failed", "planned", "read", "seconds", "settled")

    def __init__(self) -> None:
        self.batches: list[tuple[type[Row], Batch[Any]]] = []
        self.failed: dict[tuple[type[Row], Hashable], str] = {}
        self.drift: dict[type[Row], int] = {}
        """Rows per table in which the kernel differed from what was last written, where a table was read."""
        self.read: set[type[Row]] = set()
        self.errors: Counter[tuple[type[Row], str]] = Counter()
        """Rows refused per table and operation (add, remove); a table that fails as a whole counts once, also in read.
        """
        self.seconds: dict[type[Row], float] = {}
        """Time spent on reading and writing each table."""
        self.planned = 0.0
        """Seconds from the events to the changes, and the controllers that had something to plan."""
        self.controllers: frozenset[str] = frozenset()
        self.settled = True
        """Everything that was dirty is compiled."""

    @property
    def writes(self) -> int:
        """Rows in all batches."""
        return sum(len(batch) for _, batch in self.batches)


class Dataplane:
    """All tables. Single-threaded: only the engine's thread calls it."""

    def __init__(
        self,
        tables: Iterable[Table[Any]],
        ledgers: Mapping[type[Row], Ledger[Any]],
        *,
        stopwatch: Callable[[], float] = lambda: 0.0,
        counts: Callable[[type[Row], Hashable], bool] = lambda row, key: True,
    ) -> None:
        """`counts` says whether a table that waits for others waits for this row of theirs."""
        self.tables: dict[type[Row], Table[Any]] = {table.row: table for table in tables}
        self._stopwatch = stopwatch
        self._ledgers = ledgers
        self._counts = counts
        self.held: dict[type[Row], str] = {}
        """Tables to which nothing was added in the last pass because of others, and for what they wait."""
        self._unread: set[type[Row]] = set(self.tables)
        self.progress: Callable[[], None] = lambda: None
        """Told whenever a table has been read or written: each takes a bounded time, all of them together may not."""

    def resync(self, tables: Collection[type[Row]]) -> None:
        """Have these tables read in the next pass."""
        for row in {*tables, *(other for asked in tables for other in READ_TOGETHER.get(asked, ()))}:
            if row in self.tables:
                self._unread.add(row)
                # Whoever asks has a reason to think that it answers again, and takes what it refused.
                self.tables[row].retry_at = 0.0
                self.tables[row].mirror.hasten()

    def converge(
        self, changes: Changes, *, synced: Collection[str], now: float, settled: bool = True, dry_run: bool = False
    ) -> Report:
        """One pass: note what changed, read what has to be read, write in stage order what is due.

        As long as not everything dirty is compiled (`settled` is False) no table is read for the first time and nothing
        is removed: whoever would claim those rows has not had its say. With `dry_run` nothing is written and nothing
        forgotten; the report says what would be.
        """
        report = Report()
        report.settled = settled
        self.held = {}
        for row, previous in changes.items():
            if row in self.tables:
                self.tables[row].mirror.note(previous)
        for row in [row for row in self.tables if row in self._unread]:
            table = self.tables[row]
            if table.last_read is not None or (settled and table.read_needs.issubset(synced)):
                self._read(table, now, report)
        for row, action in STEPS:
            target = self.tables.get(row)
            if target is None or not target.read or not target.mirror.pending:
                continue
            if action is Action.ADD and any(
                (other := self.tables.get(needed)) is not None and not other.read for needed in REFERENCES.get(row, ())
            ):
                continue
            if action is Action.ADD and (awaited := self._awaited(target, synced, settled=settled)):
                self.held[row] = awaited
                continue
            if action is Action.REMOVE and not (settled and target.removal_needs.issubset(synced)):
                continue
            if action is Action.REMOVE and not all(self._stands(other) for other in SUCCESSORS.get(row, ())):
                continue
            self._write(target, action, now, report, dry_run=dry_run)
        return report

    def _awaited(self, table: Table[Any], synced: Collection[str], *, settled: bool) -> str:
        """What has to be there before anything is added to a table; empty when all is."""
        standing, tried = STANDING_BEFORE.get(table.row, ()), TRIED_BEFORE.get(table.row, ())
        if not standing and not tried:
            return ""
        if missing := sorted(table.addition_needs.difference(synced)):
            return ", ".join(missing)
        for row in (*standing, *tried):
            other = self.tables.get(row)
            if other is None:
                continue
            if not other.read:
                return f"{row.__name__} ({other.error or 'not read yet'})"
            for key in other.mirror.lacks(self._ledgers[row].desired):
                why = other.mirror.failures.get(key)
                if (why is None or row in standing) and self._counts(row, key):
                    return f"{row.__name__} {key}" + (f" ({why})" if why else "")
        return "" if settled else "what is being compiled"

    def _stands(self, row: type[Row]) -> bool:
        table = self.tables.get(row)
        return table is None or (table.read and table.mirror.standing(self._ledgers[row].desired))

    def _read(self, table: Table[R], now: float, report: Report) -> None:
        if table.retry_at > now:
            return
        began = self._stopwatch()
        try:
            actual = {row.key: row for row in table.driver.read() if table.driver.owns(row)}
        except Exception as error:
            table.lost(_why(error, "read"), now)
            report.errors[table.row, "read"] += 1
            return
        finally:
            self._clocked(table.row, began, report)
        report.read.add(table.row)
        first = table.last_read is None
        known = table.mirror.pending
        differing = table.mirror.refresh(actual, self._ledgers[table.row].desired)
        if first:
            table.inherit(actual.values())
        else:
            report.drift[table.row] = max(0, differing - known)
        table.found(now)
        self._unread.discard(table.row)

    def _write(self, table: Table[R], action: Action, now: float, report: Report, *, dry_run: bool) -> None:
        batch = self._due(table, action, now)
        if not batch:
            return
        together: list[tuple[Table[Any], Batch[Any]]] = [(table, batch)]
        if action is Action.ADD and not dry_run:
            together += self._content(table, now)
        report.batches += [(each.row, part) for each, part in together]
        if dry_run:
            return
        began = self._stopwatch()
        try:
            outcomes = _written(table.driver, *(part for _, part in together))
        except Exception as error:
            for each, _ in together:
                self._unread.add(each.row)
                each.lost(_why(error, "written"), now)
                report.errors[each.row, action.value] += 1
            return
        finally:
            self._clocked(table.row, began, report)
        for (each, part), outcome in zip(together, outcomes, strict=True):
            each.mirror.wrote(part, outcome.failed, now, outcome.instead)
            for key, text in outcome.failed.items():
                report.failed[each.row, key] = text
            if outcome.failed:
                report.errors[each.row, action.value] += len(outcome.failed)

    def _due(self, table: Table[R], action: Action, now: float) -> Batch[R]:
        due = table.mirror.batch(self._ledgers[table.row].desired, now)
        return Batch(due.add, due.change) if action is Action.ADD else Batch(remove=due.remove)

    def _content(self, table: Table[Any], now: float) -> list[tuple[Table[Any], Batch[Any]]]:
        """What is due of the table whose rows lie in those of this one, if its driver can take them along."""
        row = CONTENTS.get(table.row)
        inner = self.tables.get(row) if row is not None and isinstance(table.driver, Filler) else None
        if inner is None or not inner.read or not inner.mirror.pending:
            return []
        batch = self._due(inner, Action.ADD, now)
        return [(inner, batch)] if batch else []

    def _clocked(self, row: type[Row], began: float, report: Report) -> None:
        report.seconds[row] = report.seconds.get(row, 0.0) + self._stopwatch() - began
        self.progress()

    def next_due(self) -> float | None:
        """When something wants to be tried again, or None."""
        dues = [self.tables[row].retry_at for row in self._unread if self.tables[row].error]
        dues += [due for t in self.tables.values() if t.read and (due := t.mirror.next_due()) is not None]
        return min(dues, default=None)


def _written(driver: Driver[Any], batch: Batch[Any], content: Batch[Any] | None = None) -> tuple[Outcome, ...]:
    if content is not None and isinstance(driver, Filler):
        return driver.fill(batch, content)
    return (driver.write(batch),)


def _why(error: Exception, done: str) -> str:
    """What is said of a table that is lost: `Unavailable` says it itself, anything else is a bug."""
    return str(error) if isinstance(error, Unavailable) else f"cannot be {done}: {type(error).__name__}: {error}"
