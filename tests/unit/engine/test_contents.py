"""Rows that lie in those of another table are written with them, where the driver can do both."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.journal import Journal
from kuberouter.engine.planner import Planner
from kuberouter.model.core import Batch, ObjectRef, Outcome, Owner, Rank, Unavailable
from kuberouter.model.nftables import KeyType, NftElement, NftElementKey, NftFamily, NftSet, NftSetKey
from kuberouter.model.settings import NodeSettings

OWNER = Owner("firewall", ObjectRef("Node", "", "n1"))
SET = NftSet(NftSetKey(NftFamily.IPV4, "S"), (KeyType.IPV4_ADDR,))
OTHER = NftSet(NftSetKey(NftFamily.IPV4, "T"), (KeyType.IPV4_ADDR,))
ELEMENTS = [NftElement(NftElementKey(SET.key, bytes((10, 0, 0, n)))) for n in range(3)]


class Filling(MemoryDriver[Any]):
    """Writes elements as well, into another driver's memory, and what it is told to refuse it does not."""

    def __init__(self, elements: MemoryDriver[Any]) -> None:
        super().__init__()
        self.elements = elements
        self.fills: list[tuple[int, int]] = []
        self.refused: dict[Hashable, str] = {}
        self.error: Exception | None = None

    def fill(self, batch: Batch[Any], content: Batch[Any]) -> tuple[Outcome, Outcome]:
        if self.error is not None:
            raise self.error
        self.fills.append((len(batch), len(content)))
        taken = Batch(tuple(row for row in content.add if row.key not in self.refused))
        return self.write(batch), Outcome({**self.elements.write(taken).failed, **self.refused})


def world() -> tuple[Planner, Dataplane, Filling, MemoryDriver[Any]]:
    planner = Planner(Cluster(NodeSettings("n1")), (), (NftSet, NftElement), Journal())
    elements: MemoryDriver[Any] = MemoryDriver()
    sets = Filling(elements)
    return planner, Dataplane([Table(NftSet, sets), Table(NftElement, elements)], planner.ledgers), sets, elements


def changes(planner: Planner, *rows: NftSet | NftElement) -> dict[Any, Any]:
    for kind in (NftSet, NftElement):
        planner.ledgers[kind].claim(OWNER, [row for row in rows if isinstance(row, kind)], rank=Rank())
    return {kind: planner.ledgers[kind].changes() for kind in (NftSet, NftElement)}


def written(report: Report) -> list[tuple[str, int]]:
    return [(row.__name__, len(batch)) for row, batch in report.batches]


def test_new_sets_are_written_with_their_elements_and_elements_alone_by_their_own_driver() -> None:
    planner, dataplane, sets, elements = world()
    report = dataplane.converge(changes(planner, SET, *ELEMENTS[:2]), synced=(), now=0.0)
    assert sets.fills == [(1, 2)]
    assert written(report) == [("NftSet", 1), ("NftElement", 2)]
    report = dataplane.converge(changes(planner, SET, *ELEMENTS[1:]), synced=(), now=1.0)
    assert sets.fills == [(1, 2)]
    assert elements.rows.keys() == {row.key for row in ELEMENTS[1:]}
    report = dataplane.converge(changes(planner, SET, OTHER, *ELEMENTS[1:]), synced=(), now=2.0)
    assert written(report) == [("NftSet", 1)]
    assert sets.rows.keys() == {SET.key, OTHER.key}


def test_an_element_that_was_refused_with_its_set_is_tried_again_alone() -> None:
    planner, dataplane, sets, elements = world()
    sets.refused = {ELEMENTS[0].key: "refused"}
    report = dataplane.converge(changes(planner, SET, *ELEMENTS), synced=(), now=0.0)
    assert report.failed == {(NftElement, ELEMENTS[0].key): "refused"}
    assert report.errors == {(NftElement, "add"): 1}
    assert elements.rows.keys() == {row.key for row in ELEMENTS[1:]}
    due = dataplane.next_due()
    assert due is not None
    report = dataplane.converge({}, synced=(), now=due)
    assert written(report) == [("NftElement", 1)]
    assert elements.rows.keys() == {row.key for row in ELEMENTS}
    assert sets.fills == [(1, 3)]


def test_both_tables_are_read_again_when_nobody_knows_what_was_written() -> None:
    planner, dataplane, sets, elements = world()
    sets.error = Unavailable("gone")
    report = dataplane.converge(changes(planner, SET, *ELEMENTS), synced=(), now=0.0)
    assert report.errors == {(NftSet, "add"): 1, (NftElement, "add"): 1}
    assert not any(table.read for table in dataplane.tables.values())
    sets.error = None
    dataplane.converge({}, synced=(), now=100.0)
    assert elements.rows.keys() == {row.key for row in ELEMENTS}


def test_what_would_be_written_is_told_once_for_each_table() -> None:
    planner, dataplane, sets, _ = world()
    report = dataplane.converge(changes(planner, SET, *ELEMENTS), synced=(), now=0.0, dry_run=True)
    assert written(report) == [("NftSet", 1), ("NftElement", 3)]
    assert sets.fills == []
    assert not sets.rows
