"""Events in, changed keys out: applies events to the cluster, compiles the owners they dirty, claims their rows.

Synchronous, no I/O, no clock. One owner that fails keeps its last claim and holds nobody else up.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from kuberouter.cluster.dependents import Key
from kuberouter.cluster.store import Cluster
from kuberouter.cluster.view import ClusterView
from kuberouter.engine.assembly import Assembler
from kuberouter.engine.journal import Journal
from kuberouter.engine.ledger import Claim, Ledger
from kuberouter.model.core import Fragment, ObjectRef, Owner, Row
from kuberouter.model.events import ANNOTATIONS, Accepted, Deleted, Drifted, Event, Rejected, Synced, Upserted
from kuberouter.model.netfilter import Chain, ChainKey, Rule
from kuberouter.model.node import NodeFacts
from kuberouter.model.ports import Compiler

NODE_KNOWN = "node"
"""Name under which the planner reports that the facts of this node are known; tables may need it like a source."""
POD_CIDR_KNOWN = "pod CIDR"
"""Likewise, while this node has one; the Node object may be there long before its CIDR is."""

TOGETHER = 250
"""Owners whose claims are taken in together: enough to gain by it, and few enough that what is held is not much."""
Changes = dict[type[Row], dict[Hashable, Row | None]]
"""Changed keys per table, each with the row that was desired before."""


class Registered:
    """A compiler with its settings, under one name, and the sources that must be in sync before it is asked."""

    __slots__ = ("compiler", "controller", "name", "needs", "settings")

    def __init__(
        self, name: str, controller: str, compiler: Compiler[Any, Any], settings: object, needs: Iterable[str] = ()
    ) -> None:
        self.name = name
        self.controller = controller
        self.compiler = compiler
        self.settings = settings
        self.needs = frozenset((*needs, NODE_KNOWN))

    def compile(self, key: Owner, cluster: Cluster, node: NodeFacts) -> Fragment:
        """Call the compiler for one owner."""
        return self.compiler(key, cluster, node=node, settings=self.settings)


class History(Protocol):
    """Somebody who makes objects of what was claimed until now."""

    def follow(
        self,
        ledgers: Mapping[type[Row], Ledger[Any]],
        view: ClusterView,
        *,
        synced: Collection[str],
        settled: bool,
        now: float,
    ) -> Iterable[Event]:
        """The events that follow from a step, at a moment of the engine's clock; the ledgers tell what it changed.

        `settled` says that everything is compiled that can be with the sources that are in sync.
        """


class Planner:
    """Compiles dirty owners in the order in which compilers are registered: Services before policy storms."""

    def __init__(
        self,
        cluster: Cluster,
        compilers: Sequence[Registered],
        tables: Iterable[type[Row]],
        journal: Journal,
        *,
        history: History | None = None,
    ) -> None:
        self.cluster = cluster
        self._history = history
        self.journal = journal
        self.compilers: Mapping[str, Registered] = {c.name: c for c in compilers}
        self.ledgers: Mapping[type[Row], Ledger[Any]] = {table: Ledger() for table in tables}
        self.synced: set[str] = set()
        self.drifted: set[type[Row]] = set()
        """Tables that somebody else changed; the engine takes them out and has them read again."""
        self.busy: frozenset[str] = frozenset()
        """Controllers for which the last step compiled something."""
        self._dirty: dict[str, dict[Key, None]] = {c.name: {} for c in compilers}
        self._compiled: dict[str, set[Key]] = {c.name: set() for c in compilers}
        self._tables_of: dict[str, set[type[Row]]] = {c.name: set() for c in compilers}
        self._assembler: Assembler | None = None
        if Rule in self.ledgers and Chain in self.ledgers:
            self._assembler = Assembler(self.ledgers[Rule], self.ledgers[Chain])

    @property
    def backlog(self) -> int:
        """Owners that could be compiled now and are not yet."""
        return sum(len(keys) for name, keys in self._dirty.items() if self.compilers[name].needs <= self.synced)

    def step(self, events: Sequence[Event], limit: int = 5000, *, now: float = 0.0) -> Changes:
        """Take in events, compile up to `limit` dirty owners, and return what changed. Call again while `backlog`.

        `now` is for the history only.
        """
        for event in events:
            self._take(event)
        busy: set[str] = set()
        self.busy = frozenset()
        node = self.cluster.node
        if node is None:
            return {}
        for name, dirty in self._dirty.items():
            registered = self.compilers[name]
            if not registered.needs <= self.synced:
                continue
            if dirty and limit > 0:
                busy.add(registered.controller)
            # Picked first and taken out one by one: looking for the first of a book over and over walks over the gaps.
            picked = list(islice(dirty, limit))
            limit -= len(picked)
            for start in range(0, len(picked), TOGETHER):
                self._compile(registered, picked[start : start + TOGETHER], node)
            if not dirty:
                # An emptied book keeps the room that it once took.
                dirty.clear()
        self.busy = frozenset(busy)
        if self._history is not None:
            self._relate(self._history, node, now)
        if self._assembler is not None:
            self._assembler.assemble(self.ledgers[Rule].changes())
        return {table: changed for table, ledger in self.ledgers.items() if (changed := ledger.changes())}

    def _relate(self, history: History, node: NodeFacts, now: float) -> None:
        """Take in what follows from this step and compile it at once: the row before and the row after are one
        change.
        """
        settled = self.backlog == 0
        events = history.follow(self.ledgers, self.cluster, synced=self.synced, settled=settled, now=now)
        for event in list(events):
            if not isinstance(event, Upserted | Deleted):
                self._take(event)
                continue
            for compiler, keys in self.cluster.apply(event):
                if (registered := self.compilers.get(compiler)) is not None:
                    self._compile(registered, keys, node)

    def _take(self, event: Event) -> None:
        match event:
            case Upserted():
                self._apply(event)
            case Deleted(ref=ref):
                self._apply(event)
                self.journal.report(ref, ())
            case Rejected(ref=ref, problems=problems):
                self.journal.report(ref, problems)
            case Accepted(ref=ref):
                self.journal.report(ref, ())
            case Synced(source=source):
                self.synced.add(source)
            case Drifted(table=table):
                self.drifted.add(table)

    def _apply(self, event: Upserted | Deleted) -> None:
        cluster, books = self.cluster, self._dirty
        for compiler, keys in cluster.apply(event):
            if (dirty := books.get(compiler)) is not None:
                for key in keys:
                    dirty[key] = None
        if cluster.facts_changed:
            self.synced.add(NODE_KNOWN)
            if cluster.node is not None and cluster.node.pod_cidrs:
                self.synced.add(POD_CIDR_KNOWN)
            else:
                self.synced.discard(POD_CIDR_KNOWN)
            self.recompute()
        if ANNOTATIONS not in self.synced and cluster.readable:
            self.synced.add(ANNOTATIONS)

    def lacks(self) -> str:
        """What of this node itself is not known yet, in words."""
        name = self.cluster.name
        if self.cluster.node is not None:
            return f"Node {name} has no pod CIDR of a family in use yet"
        if self.cluster.node_object(name) is not None:
            return f"Node {name} has no address of a family in use yet"
        return f"there is no Node of the name {name}"

    def recompute(self) -> None:
        """Mark every owner that holds a claim or once compiled as dirty: compile everything again, in slices."""
        for name, keys in self._compiled.items():
            self._dirty[name].update(dict.fromkeys(keys))

    def _compile(self, registered: Registered, keys: Iterable[Key], node: NodeFacts) -> None:
        """Compile owners and take in what they claim; they are dirty no longer."""
        dirty, compiled = self._dirty[registered.name], self._compiled[registered.name]
        tables = self._tables_of[registered.name]
        claims: dict[type[Row], list[Claim[Any]]] = {table: [] for table in tables}
        cluster, journal, compile_ = self.cluster, self.journal, registered.compile
        try:
            for key in keys:
                dirty.pop(key, None)
                owner = key if isinstance(key, Owner) else Owner(registered.name, key)
                try:
                    fragment = compile_(owner, cluster, node)
                except Exception as error:
                    journal.bug(owner, error)
                    compiled.add(key)
                    continue
                journal.report(owner, fragment.problems)
                by_table = _by_table(fragment.rows)
                if not tables.issuperset(by_table):
                    tables.update(by_table)
                    claims |= {table: [] for table in by_table if table not in claims}
                for table, found in claims.items():
                    found.append((owner, by_table.get(table, ()), fragment.rank))
                if fragment.rows or fragment.problems or cluster.exists(owner.subject):
                    compiled.add(key)
                else:
                    compiled.discard(key)
        finally:
            for table, found in claims.items():
                self.ledgers[table].claim_all(found)

    def subjects_of(self, table: type[Row], key: Hashable, text: str = "") -> Iterable[ObjectRef]:
        """The objects for which a row is claimed, without those of no namespace: what is the node's is the table's.

        Of a chain that many share, those whose rules a text about it names.
        """
        owners = [*self.ledgers[table].owners(key)]
        if self._assembler is not None and isinstance(key, ChainKey):
            owners += self._assembler.blamed(key, text)
        return dict.fromkeys(o.subject for o in owners if o.subject.namespace and o.compiler in self.compilers)

    def controller_of(self, table: type[Row], key: Hashable) -> str | None:
        """The controller whose claim holds a key, for readiness; None when nobody claims it."""
        owner = self.ledgers[table].holder(key)
        if owner is not None and owner.compiler == "assembly" and self._assembler is not None:
            row = self.ledgers[table].winner(key)
            owner = self._assembler.contributor(row.key) if isinstance(row, Chain) else None
        registered = self.compilers.get(owner.compiler) if owner is not None else None
        return registered.controller if registered is not None else None


def _by_table(rows: tuple[Row, ...]) -> Mapping[type[Row], Sequence[Row]]:
    tables = set(map(type, rows))
    if len(tables) == 1:
        # So it is for nearly every owner, because pods and slices are many.
        return {tables.pop(): rows}
    if len(tables) == len(rows):
        return {type(row): (row,) for row in rows}
    found: dict[type[Row], list[Row]] = {table: [] for table in tables}
    for row in rows:
        found[type(row)].append(row)
    return found
