"""Who claims which row, and who wins. One ledger per row type; no I/O, no clock.

The common case is one owner per key and costs one entry in each of two dictionaries that share the key object; only
contested keys get a book of their claims.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from operator import attrgetter
from typing import Generic, TypeVar

import msgspec

from kuberouter.model.core import Batch, Owner, Rank, Row

R = TypeVar("R", bound=Row)

Claim = tuple[Owner, Sequence[R], Rank]
"""An owner, everything that it claims in one table, and its rank."""
Order = tuple[int, float, str, str, str, str]
FIRST = Rank()
_KEY = attrgetter("key")


class _Claimant(msgspec.Struct, Generic[R], gc=False, eq=False):
    """One owner's standing claim: its place in the order and the rows it holds.

    Compared and hashed by identity, for there is one of each owner. Rows are values, so it is part of no cycle.
    """

    owner: Owner
    rank: Rank
    rows: tuple[R, ...]
    _order: Order | None = None

    @property
    def order(self) -> Order:
        """Where this claim stands among others; made when it is first contested, as few ever are."""
        if self._order is None:
            rank, owner = self.rank, self.owner
            subject = owner.subject
            self._order = (rank.level, rank.since, subject.namespace, subject.name, owner.compiler, owner.part)
        return self._order


def _with_rows(entering: Mapping[Owner, _Claimant[R]]) -> dict[Owner, _Claimant[R]]:
    return {owner: claimant for owner, claimant in entering.items() if claimant.rows}


class Ledger(Generic[R]):
    """Claims on the keys of one table. The lowest (rank, owner name) wins a key that several owners claim."""

    __slots__ = ("_before", "_claimants", "_contested", "_fresh", "_holders", "_rows", "_stirred")

    def __init__(self) -> None:
        self._rows: dict[Hashable, R] = {}
        self._holders: dict[Hashable, _Claimant[R]] = {}
        self._claimants: dict[Owner, _Claimant[R]] = {}
        self._contested: dict[Hashable, dict[_Claimant[R], R]] = {}
        self._before: dict[Hashable, R | None] = {}
        self._stirred = False
        """A key has lost its row since `changes` was asked, so `_before` may hold more than None."""
        self._fresh = True
        """Nothing was claimed when `changes` was last asked, so all that is now is new and `_before` need not tell."""

    def changed(self) -> dict[Hashable, R | None]:
        """What `changes` would say now, without beginning anew."""
        if self._fresh:
            return dict.fromkeys(self._rows)
        if not self._stirred:
            return self._before
        rows = self._rows
        return {key: row for key, row in self._before.items() if rows.get(key) != row}

    def changes(self) -> dict[Hashable, R | None]:
        """The keys whose winning row has changed since this was last asked, each with the row that won then.

        None: nobody claimed it then. Whoever asks may keep the answer and change it.
        """
        changed = self.changed()
        self._before, self._stirred, self._fresh = {}, False, not self._rows
        return changed

    def claim(self, owner: Owner, rows: Iterable[R], *, rank: Rank = FIRST) -> None:
        """Replace everything that `owner` claims here; no rows releases it."""
        wanted: dict[Hashable, R] = {row.key: row for row in rows}
        claimant = self._claimants.get(owner)
        if claimant is None:
            if wanted:
                claimant = self._claimants[owner] = _Claimant(owner, rank, tuple(wanted.values()))
                for key, row in wanted.items():
                    self._take(claimant, key, row)
            return
        if claimant.rank != rank:
            # Every key may change hands: release all, then claim anew under the new rank.
            for row in claimant.rows:
                self._release(claimant, row.key)
            claimant = self._claimants[owner] = _Claimant(owner, rank, ())
        held = {row.key: row for row in claimant.rows}
        for key, row in wanted.items():
            old = held.pop(key, None)
            if old is None:
                self._take(claimant, key, row)
            elif old == row:
                wanted[key] = old
            else:
                self._replace(claimant, key, row)
        for key in held:
            self._release(claimant, key)
        if wanted:
            claimant.rows = tuple(wanted.values())
        else:
            del self._claimants[owner]

    def claim_all(self, claims: Sequence[Claim[R]]) -> None:
        """Claims of many owners, one after the other."""
        if not self._enter(claims):
            for owner, rows, rank in claims:
                self.claim(owner, rows, rank=rank)

    def _enter(self, claims: Sequence[Claim[R]]) -> bool:
        """Take in claims whole if all are first ones, to what nobody holds: so it is at a start. Else do nothing."""
        if self._stirred:
            return False
        entering = {owner: _Claimant(owner, rank, tuple(rows)) for owner, rows, rank in claims}
        if len(entering) < len(claims) or not self._claimants.keys().isdisjoint(entering):
            return False
        each_with_its = [(each, each.rows) for each in entering.values() if each.rows]
        found = list(chain.from_iterable([rows for _, rows in each_with_its]))
        rows = dict(zip(map(_KEY, found), found, strict=True))
        if len(rows) < len(found) or not self._holders.keys().isdisjoint(rows):
            return False
        claimants = chain.from_iterable([repeat(each, len(rows)) for each, rows in each_with_its])
        self._claimants.update(entering if len(each_with_its) == len(entering) else _with_rows(entering))
        self._rows.update(rows)
        self._holders.update(zip(rows, claimants, strict=True))
        if not self._fresh:
            self._before.update(dict.fromkeys(rows))
        return True

    def _take(self, claimant: _Claimant[R], key: Hashable, row: R) -> None:
        holder = self._holders.get(key)
        if holder is None:
            self._before.setdefault(key, None)
            self._rows[key] = row
            self._holders[key] = claimant
            return
        claims = self._contested.get(key)
        if claims is None:
            claims = self._contested[key] = {holder: self._rows[key]}
        claims[claimant] = row
        if claimant.order < holder.order:
            self._install(claimant, key, row)

    def _replace(self, claimant: _Claimant[R], key: Hashable, row: R) -> None:
        claims = self._contested.get(key)
        if claims is not None:
            claims[claimant] = row
        if self._holders[key] is claimant:
            self._install(claimant, key, row)

    def _release(self, claimant: _Claimant[R], key: Hashable) -> None:
        claims = self._contested.get(key)
        if claims is None:
            self._stirred = True
            self._before.setdefault(key, self._rows.pop(key))
            del self._holders[key]
            return
        del claims[claimant]
        if self._holders[key] is claimant:
            heir = min(claims, key=lambda claim: claim.order)
            self._install(heir, key, claims[heir])
        if len(claims) == 1:
            del self._contested[key]

    def _install(self, claimant: _Claimant[R], key: Hashable, row: R) -> None:
        """From now on this claim wins; an equal row stays the same object, and is no change."""
        self._holders[key] = claimant
        old = self._rows[key]
        if old != row:
            self._stirred = True
            self._before.setdefault(key, old)
            self._rows[key] = row

    def winner(self, key: Hashable) -> R | None:
        """The row that should exist under this key, or None."""
        return self._rows.get(key)

    def holder(self, key: Hashable) -> Owner | None:
        """The owner whose claim wins this key, or None."""
        claimant = self._holders.get(key)
        return claimant.owner if claimant is not None else None

    def owners(self, key: Hashable) -> Sequence[Owner]:
        """Everybody who claims this key, the winner first."""
        claims = self._contested.get(key)
        if claims is not None:
            return [claim.owner for claim in sorted(claims, key=lambda claim: claim.order)]
        holder = self.holder(key)
        return [] if holder is None else [holder]

    def claimed(self, owner: Owner) -> tuple[R, ...]:
        """The rows that an owner claims, whether they win or not."""
        claimant = self._claimants.get(owner)
        return claimant.rows if claimant is not None else ()

    @property
    def desired(self) -> Mapping[Hashable, R]:
        """Every winning row by key. A live view: do not keep it across claims."""
        return self._rows

    def __iter__(self) -> Iterator[R]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)


def diff(desired: Mapping[Hashable, R], actual: Mapping[Hashable, R | None]) -> Batch[R]:
    """The writes that turn `actual`, where None is no row, into `desired` for the keys of `actual`.

    Pure; the only difference taken in the project.
    """
    if not any(actual.values()):
        # At a start there is nothing yet, and that is when there is most to write.
        return Batch(tuple(filter(None, map(desired.get, actual))))
    add: list[R] = []
    change: list[tuple[R, R]] = []
    remove: list[R] = []
    for key, have in actual.items():
        want = desired.get(key)
        if want is None:
            if have is not None:
                remove.append(have)
        elif have is None:
            add.append(want)
        elif want != have:
            change.append((have, want))
    return Batch(tuple(add), tuple(change), tuple(remove))
