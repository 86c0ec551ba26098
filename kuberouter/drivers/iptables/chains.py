"""Chains of ours: one transaction per table and family changes every chain of a batch at once.

Rules of others are never written: the restore names only our chains.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from operator import attrgetter

from kuberouter.drivers.iptables.tools import ATTEMPTS, TABLES, Failures, Variant, Xtables
from kuberouter.drivers.looks import Looks
from kuberouter.drivers.standins import Losses
from kuberouter.drivers.walk import as_walked
from kuberouter.model.core import Batch, Family, Outcome
from kuberouter.model.netfilter import (
    Chain,
    ChainKey,
    Table,
)
from kuberouter.wire.text.iptables import (
    Script,
    complaint,
    jumps,
)
from kuberouter.wire.text.tags import SavedChain


class ChainDriver:
    """Driver of `Chain` rows."""

    def __init__(
        self,
        xtables: Xtables,
        families: Collection[Family],
        prefixes: tuple[str, ...],
        tables: Collection[Table] = TABLES,
    ) -> None:
        self._xtables = xtables
        self._families = tuple(families)
        self._prefixes = prefixes
        self._tables = tuple(tables)
        self._looks: Looks[ChainKey] = Looks()

    def read(self) -> Iterable[Chain]:
        """The chains with one of our prefixes. One that others have changed has no tag of any rules, so is put right.

        A rule that was replaced by another shows in how the chain is printed, if it has been read before.
        """
        return (Chain(key, tag) for key, tag in self._looks.judged(self._saved()))

    def _saved(self) -> Iterator[tuple[ChainKey, SavedChain]]:
        for family in self._families:
            saved = self._xtables.chains(family) if self._tables else {}
            for table in self._tables:
                for name, chain in saved.get(table.value, {}).items():
                    if name.startswith(self._prefixes):
                        yield ChainKey(family, table, name), chain

    def owns(self, row: Chain) -> bool:
        """Chains are recognised as ours by the prefix of their name."""
        return row.key.name.startswith(self._prefixes)

    def write(self, batch: Batch[Chain]) -> Outcome:
        """Replace and create chains, then delete those to be removed: one transaction each per table and family."""
        failed: Failures = {}
        losses = Losses()
        wanted = [*batch.add, *(new for _, new in batch.change)]
        self._looks.forget(row.key for row in (*wanted, *batch.remove))
        for family in Family:
            for table in Table:
                here = [c for c in wanted if c.key.family is family and c.key.table is table]
                if here:
                    self._load(family, table, here, losses)
                gone = [c.key for c in batch.remove if c.key.family is family and c.key.table is table]
                if gone:
                    failed |= self._unload(family, table, gone)
        return losses.outcome(failed)

    def _load(self, family: Family, table: Table, chains: Iterable[Chain], losses: Losses) -> None:
        pending = {chain.key: chain for chain in chains}
        for _ in range(ATTEMPTS):
            if not pending:
                return
            script = Script(table.value)
            # In order of their names the nft tool takes a thousand chains in two thirds of the time.
            ordered = sorted(pending, key=attrgetter("name"))
            for key in ordered:
                script.declare(key.name, key)
            for key in _as_walked(pending) if self._xtables.variant is Variant.NFT else ordered:
                script.fill(key.name, pending[key].rules, key, tag=pending[key].tag)
            result = self._xtables.restore(family, script)
            if result.ok:
                return
            culprits: dict[ChainKey, list[str]] = {}
            for subject, rule in script.faults(result.errors):
                if isinstance(subject, ChainKey):
                    culprits.setdefault(subject, []).append(rule)
            if not culprits and len(pending) > 1:
                self._halves(family, table, pending, losses)
                return
            for key, refused in (culprits or {key: [] for key in pending}).items():
                losses.weaken(pending, key, refused, complaint(result.errors))
        losses.fail(pending, "not tried: too many other chains were refused")

    def _halves(self, family: Family, table: Table, pending: dict[ChainKey, Chain], losses: Losses) -> None:
        """Load in two transactions what fails in one without saying where; what is referred to comes first."""
        ordered = _as_walked(pending)
        for half in (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]):
            self._load(family, table, [pending[key] for key in half], losses)

    def _unload(self, family: Family, table: Table, keys: Iterable[ChainKey]) -> Failures:
        """Delete chains. One that somebody still jumps to stays and is told of, but empty: it judges nobody."""
        pending = dict.fromkeys(keys)
        emptied: dict[ChainKey, None] = {}
        failed: Failures = {}
        for _ in range(ATTEMPTS):
            script = Script(table.value)
            for key in (*pending, *emptied):
                # Declaring empties a chain, and makes the deletion hold even if somebody else was faster.
                script.declare(key.name, key)
            for key in pending:
                script.add(f"-X {key.name}", key)
            result = self._xtables.restore(family, script)
            if result.ok:
                return failed
            culprits = [key for key in script.culprits(result.errors) if isinstance(key, ChainKey)]
            if not culprits and len(pending) > 1:
                for key in (*pending, *emptied):
                    failed |= self._unload(family, table, (key,))
                return failed
            for key in culprits or [*pending, *emptied]:
                failed.setdefault(key, complaint(result.errors))
                if key in pending:
                    del pending[key]
                    emptied[key] = None
                else:
                    emptied.pop(key, None)
            if not pending and not emptied:
                return failed
        return failed | dict.fromkeys(pending, "not tried: too many other chains were refused")


def _as_walked(chains: dict[ChainKey, Chain]) -> list[ChainKey]:
    by_name = {key.name: key for key in chains}
    return [by_name[name] for name in as_walked({key.name: jumps(row.rules) for key, row in chains.items()})]
