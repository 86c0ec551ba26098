"""gobgpd as nine tables that share one client: speaker, sets and their entries, policy, peers, paths.

gobgpd is a daemon of its own that holds nothing but what it is told; a fresh one reads as empty tables. What is ours in
it is recognised by the names of sets and policies; peers and paths are ours altogether.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from msgspec import structs

from kuberouter.model.bgp import (
    DefinedSet,
    DefinedSetKey,
    NeighborSetEntry,
    NeighborSetEntryKey,
    Path,
    Peer,
    Policy,
    PolicyAssignment,
    PrefixSetEntry,
    PrefixSetEntryKey,
    RouteDirection,
    SetKind,
    Speaker,
    Statement,
)
from kuberouter.model.core import Batch, Outcome, Row, Unavailable
from kuberouter.wire.gobgp.client import Api, Refused, SetEntry
from kuberouter.wire.gobgp.gobgpd import Gobgp

R = TypeVar("R", bound=Row)
E = TypeVar("E", PrefixSetEntry, NeighborSetEntry)


def _each(rows: Iterable[R], call: Callable[[R], None], failed: dict[Hashable, str]) -> None:
    """Call per row; note who is refused."""
    for row in rows:
        try:
            call(row)
        except Refused as error:
            failed[row.key] = str(error)


class _Table(Generic[R]):
    """What the tables behind the speaker share: a daemon without identity is empty, one made anew has to be read."""

    def __init__(self, gobgp: Gobgp) -> None:
        self._gobgp = gobgp
        self._seen = -1

    @property
    def _api(self) -> Api:
        return self._gobgp.api

    def read(self) -> Iterable[R]:
        """All rows of a daemon that has an identity."""
        self._seen = self._gobgp.starts
        if self._api.speaker() is None:
            # It becomes one of ours when it is started next, and is known to be empty then.
            self._seen += 1
            return []
        return list(self._rows())

    def _rows(self) -> Iterable[R]:
        raise NotImplementedError

    def _fresh(self) -> None:
        """Raise Unavailable, hence have the table read again, unless the daemon still is the one that was read."""
        if self._gobgp.starts > self._seen:
            raise Unavailable("gobgpd was given another identity and has to be told everything again")
        if self._gobgp.starts < self._seen:
            raise Unavailable("gobgpd has not been given an identity")


class SpeakerDriver:
    """The daemon's identity. It has one or none, so any is ours."""

    def __init__(self, gobgp: Gobgp) -> None:
        self._gobgp = gobgp

    def owns(self, row: Speaker) -> bool:
        """Always: gobgpd runs for us alone."""
        del row
        return True

    def read(self) -> Iterable[Speaker]:
        """GetBgp; nothing from a fresh daemon."""
        found = self._gobgp.api.speaker()
        return [] if found is None else [found]

    def write(self, batch: Batch[Speaker]) -> Outcome:
        """Start a fresh daemon. Another identity is a stop and a start: sessions, paths and policy are lost with it.

        Raises Unavailable where the stop is the end of the process, until another is there.
        """
        failed: dict[Hashable, str] = {}
        _each(batch.add, self._start, failed)
        _each((new for _, new in batch.change), self._restart, failed)
        _each(batch.remove, self._stop, failed)
        return Outcome(failed)

    def _stop(self, row: Speaker) -> None:
        del row
        if not self._gobgp.api.stop():
            self._gobgp.dismissed()

    def _start(self, row: Speaker) -> None:
        self._gobgp.api.start(row)
        self._gobgp.started(fresh=True)

    def _restart(self, row: Speaker) -> None:
        if self._gobgp.api.speaker() is not None and not self._gobgp.api.stop():
            self._gobgp.dismissed()
            raise Unavailable("gobgpd was ended, for it takes another identity only from its start")
        # Noted before the start may fail: whatever was read is void either way.
        self._gobgp.started()
        self._gobgp.api.start(row)
        self._gobgp.started()


class DefinedSetDriver(_Table[DefinedSet]):
    """Sets by name."""

    def __init__(self, gobgp: Gobgp, names: Collection[str]) -> None:
        super().__init__(gobgp)
        self._names = frozenset(names)

    def owns(self, row: DefinedSet) -> bool:
        """By name; the names are fixed."""
        return row.key.name in self._names

    def _rows(self) -> Iterable[DefinedSet]:
        return [DefinedSet(key) for key, _ in self._api.sets()]

    def write(self, batch: Batch[DefinedSet]) -> Outcome:
        """Make empty sets, remove sets."""
        self._fresh()
        failed: dict[Hashable, str] = {}
        _each(batch.add, lambda row: self._api.add_set(row.key, ()), failed)
        _each(batch.remove, lambda row: self._api.remove_set(row.key), failed)
        return Outcome(failed)


class _EntryTable(_Table[E]):
    """Entries of the sets of one kind. gobgpd appends without looking, so only what is missing may be added."""

    kind: SetKind

    def __init__(self, gobgp: Gobgp, names: Collection[str], *, imports: Collection[str] = ()) -> None:
        """`imports` are those of the sets whose entries decide on routes that have been learned already."""
        super().__init__(gobgp)
        self._names = frozenset(names)
        self._imports = frozenset(imports)

    def owns(self, row: E) -> bool:
        """By the name of the set."""
        return row.key.set in self._names

    def write(self, batch: Batch[E]) -> Outcome:
        """One call per set; if it is refused, one per entry, to learn which are at fault."""
        self._fresh()
        failed: dict[Hashable, str] = {}
        self._write(batch.remove, self._api.remove_entries, failed)
        self._write(batch.add, self._api.add_set, failed)
        # GoBGP judges by a changed set only what it hears from now on.
        if any(row.key.set in self._imports for row in (*batch.add, *batch.remove)) and self._api.sessions().configured:
            self._api.soft_reset(RouteDirection.IMPORT)
        if self._late(batch.add, failed) and self._api.sessions().configured:
            self._api.soft_reset(RouteDirection.EXPORT)
        return Outcome(failed)

    def _late(self, added: Iterable[E], failed: Collection[Hashable]) -> bool:
        """Whether a path was there before the entry that lets it out, because that was refused at first or got lost."""
        return False

    def _write(
        self,
        rows: Iterable[E],
        call: Callable[[DefinedSetKey, Sequence[SetEntry]], None],
        failed: dict[Hashable, str],
    ) -> None:
        by_set: dict[str, list[E]] = {}
        for row in rows:
            by_set.setdefault(row.key.set, []).append(row)
        for name, entries in by_set.items():
            key = DefinedSetKey(self.kind, name)
            try:
                call(key, [row.key for row in entries])
            except Refused:
                # Entries before the one at fault may have been taken: they must not be appended twice.
                present = {entry for found, held in self._api.sets() if found == key for entry in held}
                adding = call == self._api.add_set
                rest = [row for row in entries if (row.key in present) is not adding]
                self._one_by_one(rest, call, failed)

    def _one_by_one(
        self,
        rows: Iterable[E],
        call: Callable[[DefinedSetKey, Sequence[SetEntry]], None],
        failed: dict[Hashable, str],
    ) -> None:
        for row in rows:
            try:
                call(DefinedSetKey(self.kind, row.key.set), [row.key])
            except Refused as error:
                failed[row.key] = str(error)


class PrefixEntryDriver(_EntryTable[PrefixSetEntry]):
    """Entries of prefix sets."""

    kind = SetKind.PREFIX

    def _late(self, added: Iterable[PrefixSetEntry], failed: Collection[Hashable]) -> bool:
        originated = self._gobgp.originated
        return any(row.key.prefix in originated and row.key not in failed for row in added)

    def _rows(self) -> Iterable[PrefixSetEntry]:
        found = (entry for _, entries in self._api.sets() for entry in entries)
        return [PrefixSetEntry(entry) for entry in found if isinstance(entry, PrefixSetEntryKey)]


class NeighborEntryDriver(_EntryTable[NeighborSetEntry]):
    """Entries of neighbor sets."""

    kind = SetKind.NEIGHBOR

    def _rows(self) -> Iterable[NeighborSetEntry]:
        found = (entry for _, entries in self._api.sets() for entry in entries)
        return [NeighborSetEntry(entry) for entry in found if isinstance(entry, NeighborSetEntryKey)]


IN_PLACE = "exists with other content and cannot be changed in place; restart gobgpd"


class StatementDriver(_Table[Statement]):
    """Statements over our sets."""

    def __init__(self, gobgp: Gobgp, sets: Collection[str]) -> None:
        super().__init__(gobgp)
        self._sets = tuple(sets)

    def owns(self, row: Statement) -> bool:
        """By name: it begins with the name of one of our sets."""
        return row.key.name.startswith(self._sets)

    def _rows(self) -> Iterable[Statement]:
        return self._api.statements()

    def write(self, batch: Batch[Statement]) -> Outcome:
        """Make and remove statements."""
        self._fresh()
        failed: dict[Hashable, str] = {new.key: IN_PLACE for _, new in batch.change}
        _each(batch.add, self._api.add_statement, failed)
        _each(batch.remove, self._api.remove_statement, failed)
        return Outcome(failed)


class PolicyDriver(_Table[Policy]):
    """Policies by prefix of their name."""

    def __init__(self, gobgp: Gobgp, prefix: str) -> None:
        super().__init__(gobgp)
        self._prefix = prefix

    def owns(self, row: Policy) -> bool:
        """By the prefix of the name."""
        return row.key.name.startswith(self._prefix)

    def _rows(self) -> Iterable[Policy]:
        return self._api.policies()

    def write(self, batch: Batch[Policy]) -> Outcome:
        """Make and remove policies."""
        self._fresh()
        failed: dict[Hashable, str] = {new.key: IN_PLACE for _, new in batch.change}
        _each(batch.add, self._api.add_policy, failed)
        _each(batch.remove, self._api.remove_policy, failed)
        return Outcome(failed)


class AssignmentDriver(_Table[PolicyAssignment]):
    """The two global assignments."""

    def owns(self, row: PolicyAssignment) -> bool:
        """Unless it is what every daemon begins with: no policy and everything accepted."""
        return bool(row.policies) or not row.accept

    def _rows(self) -> Iterable[PolicyAssignment]:
        return self._api.assignments()

    def write(self, batch: Batch[PolicyAssignment]) -> Outcome:
        """Switch a direction at once, then have the routes of existing sessions judged again."""
        self._fresh()
        failed: dict[Hashable, str] = {}
        _each((*batch.add, *(new for _, new in batch.change)), self._assign, failed)
        _each(batch.remove, lambda row: self._api.assign(PolicyAssignment(row.key, (), True)), failed)
        return Outcome(failed)

    def _assign(self, row: PolicyAssignment) -> None:
        before = [old for old in self._api.assignments() if old.key == row.key]
        self._api.assign(row)
        if not self._api.sessions().configured:
            return
        self._api.soft_reset(row.key.direction)
        if self._api.withdraws or row.key.direction is RouteDirection.IMPORT:
            return
        if any(self._told(old) - self._told(row) for old in before):
            # One that withdraws nothing when it judges again still takes from everybody what is withdrawn itself.
            own = list(self._api.paths())
            self._api.originate(own, own)

    def _told(self, row: PolicyAssignment) -> set[tuple[str, str]]:
        """What of our own is told to whom, as pairs of sets; nothing that is only passed on is withdrawn here."""
        statements = {each.key.name: each for each in self._api.statements()}
        names = (
            name for policy in self._api.policies() if policy.key.name in row.policies for name in policy.statements
        )
        found = (statements[name] for name in names if name in statements)
        return {(each.prefix_set, each.neighbor_set) for each in found if each.accept and not each.internal}


class PeerDriver(_Table[Peer]):
    """Peers. gobgpd runs for us alone, so all of them are ours."""

    def owns(self, row: Peer) -> bool:
        """Always."""
        del row
        return True

    def _rows(self) -> Iterable[Peer]:
        return self._api.peers()

    def write(self, batch: Batch[Peer]) -> Outcome:
        """Add and remove peers, and change them, which is both. None is added while policy lets out whatever we have,
        or in whatever comes.

        Peers of a daemon that is new hear that it restarted, and so keep what they knew of it; whoever is added later
        does not. A session whose BFD this daemon has no idea of runs without.
        """
        self._fresh()
        failed: dict[Hashable, str] = {}
        _each(batch.remove, self._api.remove_peer, failed)
        add, change = batch.add, batch.change
        if self._api.no_bfd:
            change = tuple(pair for pair in change if pair[0] != structs.replace(pair[1], bfd=None))
        if add and (unguarded := self._unguarded()):
            error = f"the {' and '.join(unguarded)} policy is not in place"
            failed.update((row.key, error) for row in add)
        elif add:
            restarting = self._gobgp.take_fresh()
            _each(add, lambda row: self._api.add_peer(row, restarting=restarting), failed)
        _each((new for _, new in change), self._replace, failed)
        instead: dict[Hashable, str] = {}
        # Asked again: of a gobgpd 4 it may have come out just now.
        if no_bfd := self._api.no_bfd:
            asking = (row for row in (*add, *(new for _, new in batch.change)) if row.bfd is not None)
            instead = {row.key: f"{no_bfd}; the session runs without" for row in asking if row.key not in failed}
        return Outcome(failed, instead)

    def _replace(self, row: Peer) -> None:
        # Each field is told in the first message of a session or belongs to its socket, so it ends anyway. GoBGP's own
        # way to change a peer leaves some fields as they were.
        with contextlib.suppress(Refused):
            # Refused where an earlier attempt came as far as this.
            self._api.remove_peer(row)
        self._api.add_peer(row)

    def _unguarded(self) -> list[str]:
        """Directions without our policy: what goes out has to be named by one, what comes in only be judged by one."""
        guarded = {
            row.key.direction
            for row in self._api.assignments()
            if not row.accept or (row.policies and row.key.direction is RouteDirection.IMPORT)
        }
        return [direction.name.lower() for direction in RouteDirection if direction not in guarded]


class PathDriver(_Table[Path]):
    """Paths that originate here, all of them ours."""

    def owns(self, row: Path) -> bool:
        """Always: what peers sent is not among the rows."""
        del row
        return True

    def read(self) -> Iterable[Path]:
        """The paths of a daemon that has an identity."""
        rows = list(super().read())
        self._gobgp.originated = {row.key.prefix for row in rows}
        return rows

    def _rows(self) -> Iterable[Path]:
        return self._api.paths()

    def write(self, batch: Batch[Path]) -> Outcome:
        """One stream for all; if it is refused, one per path, to learn which are at fault."""
        self._fresh()
        failed: dict[Hashable, str] = {}
        # A path for the same prefix takes the place of the former one.
        announce = (*batch.add, *(new for _, new in batch.change))
        try:
            self._api.originate(announce, batch.remove)
        except Refused:
            _each(batch.remove, lambda row: self._api.originate((), (row,)), failed)
            _each(announce, lambda row: self._api.originate((row,), ()), failed)
        originated = self._gobgp.originated
        originated.difference_update(row.key.prefix for row in batch.remove if row.key not in failed)
        originated.update(row.key.prefix for row in announce if row.key not in failed)
        return Outcome(failed)
