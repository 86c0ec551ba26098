"""What the kernel refuses is tried again: later and later by itself, at once when the world has changed."""

from __future__ import annotations

from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.ledger import Ledger
from kuberouter.model.core import Batch, ObjectRef, Outcome, Owner, Prefix, Rank
from kuberouter.model.network import Route, RouteKey

KEY = RouteKey(254, Prefix(bytes((10, 1, 0, 0)), 24))


class Unplugged(MemoryDriver[Route]):
    """A kernel without the link that routes need."""

    def __init__(self) -> None:
        super().__init__()
        self.plugged = False

    def write(self, batch: Batch[Route]) -> Outcome:
        return super().write(batch) if self.plugged else Outcome(dict.fromkeys((r.key for r in batch.add), "no link"))


def test_a_refused_row_does_not_wait_once_its_table_is_looked_at_again() -> None:
    """A link that comes back after minutes would find its routes waiting for up to a minute more."""
    driver, ledger = Unplugged(), Ledger[Route]()
    dataplane = Dataplane([Table(Route, driver)], {Route: ledger})
    ledger.claim(Owner("route", ObjectRef("LearnedRoute", "", "x")), (Route(KEY, devices=("up0",)),), rank=Rank())
    changes = {Route: ledger.changes()}
    for now in (0.0, 1.0, 3.0, 7.0, 15.0):
        dataplane.converge(changes, synced=(), now=now)
        changes = {}
    assert dataplane.converge({}, synced=(), now=16.0).writes == 0, "its turn has not come"
    driver.plugged = True
    dataplane.resync((Route,))
    assert dataplane.converge({}, synced=(), now=16.0).writes == 1
    assert KEY in driver.rows
    assert dataplane.next_due() is None
