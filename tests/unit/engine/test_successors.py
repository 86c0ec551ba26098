"""What a table's successors take over goes only when they stand."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.journal import Journal
from kuberouter.engine.mirror import Mirror
from kuberouter.engine.planner import Planner
from kuberouter.model.core import Batch, Family, ObjectRef, Outcome, Owner, Rank
from kuberouter.model.netfilter import Chain, ChainKey, FormerChain, FormerHook, Hook, HookKey, HookRank, make_chain
from kuberouter.model.netfilter import Table as Xtable
from kuberouter.model.settings import NodeSettings

CHAIN = make_chain(ChainKey(Family.IPV4, Xtable.FILTER, "KUBE-ROUTER-FORWARD"), ("-j DROP",))
HOOK = Hook(HookKey(Family.IPV4, Xtable.FILTER, "FORWARD", "-j KUBE-ROUTER-FORWARD"), HookRank.POLICY)
OWNER = Owner("firewall", ObjectRef("Node", "", "n1"))


class Stubborn(MemoryDriver[Any]):
    """Refuses everything as long as it is told to."""

    refuses = True

    def write(self, batch: Batch[Any]) -> Outcome:
        if not self.refuses:
            return super().write(batch)
        failed: dict[Hashable, str] = {row.key: "refused" for row in batch.add}
        return Outcome(failed)


def test_a_refused_chain_whose_closed_form_stands_in_holds_nothing_up() -> None:
    mirror: Mirror[Chain] = Mirror()
    for fallback, stands in ((None, False), ((), True)):
        row = make_chain(CHAIN.key, ("-j NOWHERE",), fallback=fallback)
        mirror.refresh({}, {row.key: row})
        assert not mirror.standing({row.key: row})
        mirror.wrote(Batch(add=(row,)), {row.key: "refused"}, 0.0)
        assert mirror.standing({row.key: row}) is stands
        mirror.refresh({}, {})


def test_former_rules_stay_until_the_new_ones_stand() -> None:
    tables = (Chain, Hook, FormerChain, FormerHook)
    planner = Planner(Cluster(NodeSettings("n1")), (), tables, Journal())
    chains: MemoryDriver[Any] = MemoryDriver()
    hooks = Stubborn()
    former_chains: MemoryDriver[Any] = MemoryDriver([FormerChain(CHAIN.key)])
    former_hooks: MemoryDriver[Any] = MemoryDriver([FormerHook(HOOK.key, HOOK.rank)])
    drivers = (chains, hooks, former_chains, former_hooks)
    dataplane = Dataplane(
        [Table(row, driver, removal_needs=("nodes",)) for row, driver in zip(tables, drivers, strict=True)],
        planner.ledgers,
    )
    dataplane.converge({}, synced=(), now=0.0)
    assert former_hooks.rows, "nobody has had its say yet"
    for row in (CHAIN, HOOK):
        planner.ledgers[type(row)].claim(OWNER, [row], rank=Rank())
    changes = {type(row): planner.ledgers[type(row)].changes() for row in (CHAIN, HOOK)}
    dataplane.converge(changes, synced=("nodes",), now=1.0)
    assert CHAIN.key in chains.rows
    assert former_hooks.rows
    assert former_chains.rows
    hooks.refuses = False
    report = dataplane.converge({}, synced=("nodes",), now=100.0)
    assert HOOK.key in hooks.rows
    assert not former_hooks.rows
    assert not former_chains.rows
    assert [row for row, _ in report.batches] == [Hook, FormerHook, FormerChain]
