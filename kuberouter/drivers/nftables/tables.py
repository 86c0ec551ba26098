"""Tables as rows."""

from __future__ import annotations

from collections.abc import Iterable

from kuberouter.drivers.nftables.shared import Nftables, Request
from kuberouter.model.core import Batch, Outcome, Unavailable
from kuberouter.model.nftables import TABLE_NAME, FormerTable, NftFamily, NftTable, NftTableKey
from kuberouter.wire import nftables as wire
from kuberouter.wire.nftmessages import delete_table, new_table


class TableDriver:
    """Driver of `NftTable` rows."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables

    def read(self) -> Iterable[NftTable]:
        """Our tables."""
        for family in NftFamily:
            for facts in wire.tables(self._nftables.link, family):
                if facts.name == TABLE_NAME[family]:
                    yield NftTable(NftTableKey(family), facts.dormant)

    def owns(self, row: NftTable) -> bool:
        """By name; `read` yields no others."""
        return True

    def write(self, batch: Batch[NftTable]) -> Outcome:
        """Make or wake tables; delete others with everything in them."""
        wanted = [row.key.family for row in (*batch.add, *(new for _, new in batch.change))]
        requests: list[Request] = [((NftTableKey(f),), (new_table(f, TABLE_NAME[f]),)) for f in wanted]
        requests += [((row.key,), (delete_table(f := row.key.family, TABLE_NAME[f]),)) for row in batch.remove]
        return Outcome(self._nftables.commit(requests))


class FormerTableDriver:
    """Driver of `FormerTable` rows: what is left of nftables when it is not in use."""

    def __init__(self, nftables: Nftables) -> None:
        self._tables = TableDriver(nftables)

    def read(self) -> Iterable[FormerTable]:
        """Our tables; none where the kernel has no nf_tables."""
        try:
            return [FormerTable(row.key) for row in self._tables.read()]
        except Unavailable:
            return []

    def owns(self, row: FormerTable) -> bool:
        """By name, as for `NftTable`."""
        return True

    def write(self, batch: Batch[FormerTable]) -> Outcome:
        """Delete tables; there are only removals."""
        return self._tables.write(Batch(remove=tuple(NftTable(row.key) for row in batch.remove)))
