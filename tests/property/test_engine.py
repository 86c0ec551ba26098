"""The engine as a whole against tables in memory: order of writes, gates, retries, and the same end by any road."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.cluster.dependents import Change, Dirty
from kuberouter.cluster.store import Cluster
from kuberouter.cluster.view import ClusterView
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.journal import Journal
from kuberouter.engine.planner import NODE_KNOWN, Planner, Registered
from kuberouter.model.cluster import Namespace, Node, Service, ServiceType
from kuberouter.model.core import (
    Batch,
    Family,
    Fragment,
    ObjectRef,
    Outcome,
    Owner,
    Problem,
    Rank,
    Reason,
    Row,
    Unavailable,
)
from kuberouter.model.events import Deleted, Event, Synced, Upserted
from kuberouter.model.netfilter import (
    Chain,
    ChainKey,
    IpSet,
    IpSetKey,
    Member,
    MemberKey,
    Rule,
    RuleKey,
    SetType,
    make_chain,
)
from kuberouter.model.netfilter import Table as Xtables
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import NodeSettings
from tests.support.examples import examples

ME = Node(ObjectRef("Node", "", "n1"), internal_addresses=(bytes((192, 0, 2, 1)),))
CHAIN = ChainKey(Family.IPV4, Xtables.FILTER, "KUBE-ROUTER-FORWARD")


class Notebook:
    """A table in a dictionary that can refuse keys and be absent; remembers the order of writes."""

    def __init__(self, row: type[Row], log: list[tuple[str, type[Row]]]) -> None:
        self.row = row
        self.rows: dict[Hashable, Any] = {}
        self.refused: set[Hashable] = set()
        self.absent = False
        self.log = log

    def read(self) -> Iterable[Any]:
        if self.absent:
            raise Unavailable("kernel module ip_set is missing")
        return list(self.rows.values())

    def owns(self, row: Any) -> bool:
        return not (isinstance(row, IpSet) and row.key.name.startswith("foreign"))

    def write(self, batch: Batch[Any]) -> Outcome:
        if self.absent:
            raise Unavailable("kernel module ip_set is missing")
        if batch.add or batch.change:
            self.log.append(("add", self.row))
        if batch.remove:
            self.log.append(("remove", self.row))
        failed: dict[Hashable, str] = {}
        for row in (*batch.add, *(new for _, new in batch.change)):
            if row.key in self.refused:
                failed[row.key] = "ENOSPC"
            else:
                self.rows[row.key] = row
        for row in batch.remove:
            del self.rows[row.key]
        return Outcome(failed)


def compile_set(key: Owner, view: ClusterView, *, node: NodeFacts, settings: None) -> Fragment:
    """A toy compiler: a set with one member per Service, and a rule of a shared chain."""
    service = view.service(key.subject)
    if service is None:
        return Fragment()
    if service.ref.name == "bug":
        raise ValueError("boom")
    problems = (Problem(key.subject, "spec", Reason.CONFLICT, "odd"),) if service.ref.name == "odd" else ()
    name = f"set-{service.ref.name}"
    return Fragment(
        (
            IpSet(IpSetKey(name), SetType.HASH_IP, Family.IPV4),
            *(Member(MemberKey(name, a, 32)) for a in service.cluster_ips),
            Rule(RuleKey(CHAIN, len(service.ref.name), f"-m set --match-set {name} dst -j ACCEPT")),
        ),
        problems,
        Rank(since=service.created),
    )


def dependents(change: Change, view: ClusterView) -> Iterable[Dirty]:
    if change.ref.kind == "Service":
        yield "sets", (change.ref,)


class World:
    """Planner, dataplane and three tables in memory."""

    def __init__(self) -> None:
        self.log: list[tuple[str, type[Row]]] = []
        self.journal = Journal()
        self.planner = Planner(
            Cluster(NodeSettings("n1"), (dependents,)),
            [Registered("sets", "firewall", compile_set, None, ("services",))],
            (IpSet, Member, Rule, Chain),
            self.journal,
        )
        self.books = {row: Notebook(row, self.log) for row in (IpSet, Member, Chain)}
        tables = [Table(row, book, removal_needs=("services", NODE_KNOWN)) for row, book in self.books.items()]
        self.dataplane = Dataplane(tables, self.planner.ledgers)
        self.now = 0.0

    def turn(self, *events: Event, limit: int = 5000) -> int:
        changes = self.planner.step(events, limit)
        settled = self.planner.backlog == 0
        report = self.dataplane.converge(changes, synced=self.planner.synced, settled=settled, now=self.now)
        return report.writes

    def start(self, *services: Service) -> None:
        self.turn(Upserted(ME), *map(Upserted, services), Synced("services"))

    def kernel(self) -> dict[type[Row], dict[Hashable, Any]]:
        return {row: dict(book.rows) for row, book in self.books.items()}


def service(name: str, *last: int) -> Service:
    addresses = tuple(bytes((10, 96, 0, n)) for n in last)
    return Service(ObjectRef("Service", "shop", name), 0.0, ServiceType.CLUSTER_IP, addresses)


NAMES = st.sampled_from(("web", "db", "odd"))
EVENTS = st.lists(
    st.one_of(
        st.builds(lambda n, last: Upserted(service(n, *sorted(last))), NAMES, st.sets(st.integers(1, 3))),
        st.builds(lambda n: Deleted(ObjectRef("Service", "shop", n)), NAMES),
    ),
    max_size=12,
)


@examples(150)
@given(EVENTS, st.lists(st.integers(1, 4), max_size=12), st.booleans())
def test_any_batching_of_events_ends_in_the_same_kernel(events: list[Event], sizes: list[int], restart: bool) -> None:
    straight, chopped = World(), World()
    straight.start()
    straight.turn(*events)
    chopped.start()
    rest = list(events)
    for size in sizes:
        chopped.turn(*rest[:size], limit=1)
        del rest[:size]
    chopped.turn(*rest)
    while chopped.planner.backlog:
        chopped.turn(limit=1)
    chopped.turn()
    assert chopped.kernel() == straight.kernel()
    if restart:
        again = World()
        for row, book in again.books.items():
            book.rows = dict(chopped.books[row].rows)
        last = list(straight.planner.cluster.services())
        again.start(*last)
        assert again.kernel() == straight.kernel()
        assert again.log == []


def test_nothing_is_written_before_every_source_is_in_sync() -> None:
    world = World()
    assert world.turn(Upserted(service("web", 1)), Upserted(ME)) == 0
    assert world.turn(Synced("services")) > 0


def test_nothing_is_removed_before_every_source_is_in_sync() -> None:
    world = World()
    orphan = IpSet(IpSetKey("set-web"), SetType.HASH_IP, Family.IPV4)
    world.books[IpSet].rows = {orphan.key: orphan}
    world.turn(Upserted(ME))
    assert set(world.books[IpSet].rows) == {orphan.key}
    world.turn(Synced("services"))
    assert world.books[IpSet].rows == {}


def test_nothing_is_written_before_this_node_is_known() -> None:
    world = World()
    assert world.turn(Upserted(service("web", 1)), Synced("services")) == 0
    assert world.turn(Upserted(ME)) > 0


def test_additions_go_down_the_stages_and_removals_up() -> None:
    world = World()
    world.start(service("web", 1))
    assert world.log == [("add", IpSet), ("add", Member), ("add", Chain)]
    world.log.clear()
    world.turn(Deleted(ObjectRef("Service", "shop", "web")))
    assert world.log == [("remove", Chain), ("remove", Member), ("remove", IpSet)]


def test_shared_rules_are_assembled_in_rank_order() -> None:
    world = World()
    world.start(service("longer", 1), service("db", 2))
    texts = tuple(f"-m set --match-set set-{name} dst -j ACCEPT" for name in ("db", "longer"))
    assert world.books[Chain].rows[CHAIN] == make_chain(CHAIN, texts)
    assert world.books[Chain].rows[CHAIN].rules == texts
    assert world.planner.controller_of(Chain, CHAIN) == "firewall"


def test_a_row_that_fails_is_retried_with_backoff_and_holds_up_nobody() -> None:
    """W19, W23."""
    world = World()
    bad = MemberKey("set-web", bytes((10, 96, 0, 1)), 32)
    world.books[Member].refused.add(bad)
    world.start(service("web", 1, 2), service("db", 3))
    assert bad not in world.books[Member].rows
    assert len(world.books[Member].rows) == 2
    assert world.dataplane.tables[Member].mirror.failures == {bad: "ENOSPC"}
    due = world.dataplane.next_due()
    assert due is not None
    assert due > 0
    assert world.turn() == 0
    world.books[Member].refused.clear()
    world.now = due
    assert world.turn() == 1
    assert bad in world.books[Member].rows
    assert not world.dataplane.tables[Member].mirror.failures


def test_an_absent_table_is_named_and_read_again_when_it_is_back() -> None:
    world = World()
    world.books[IpSet].absent = True
    world.start(service("web", 1))
    table = world.dataplane.tables[IpSet]
    assert table.error == "kernel module ip_set is missing"
    assert world.books[Member].rows == {}, "members wait for the sets that hold them"
    world.books[IpSet].absent = False
    world.now = table.retry_at
    world.turn()
    assert table.error == ""
    assert len(world.books[IpSet].rows) == 1
    assert len(world.books[Member].rows) == 1


def test_a_compiler_that_raises_keeps_the_last_claim_and_spares_the_others() -> None:
    world = World()
    world.start(service("web", 1), service("bug", 2))
    assert len(world.books[IpSet].rows) == 1
    assert [str(p) for p in world.journal.standing] == [
        "Service shop/bug: sets failed: ValueError: boom; what was last programmed stays"
    ]
    world.turn(Deleted(ObjectRef("Service", "shop", "bug")))
    assert world.journal.standing == ()


def test_foreign_rows_survive_and_orphans_of_ours_go() -> None:
    world = World()
    foreign, orphan = (IpSet(IpSetKey(n), SetType.HASH_IP, Family.IPV4) for n in ("foreign", "set-orphan"))
    world.books[IpSet].rows = {foreign.key: foreign, orphan.key: orphan}
    world.start(service("web", 1))
    assert set(world.books[IpSet].rows) == {IpSetKey("foreign"), IpSetKey("set-web")}


def test_an_audit_repairs_what_somebody_else_changed() -> None:
    world = World()
    world.start(service("web", 1))
    world.books[Member].rows.clear()
    assert world.turn() == 0
    world.dataplane.resync([Member])
    report = world.dataplane.converge({}, synced=world.planner.synced, now=0.0)
    assert report.drift == {Member: 1}
    assert len(world.books[Member].rows) == 1


def test_an_event_that_changes_nothing_we_read_writes_nothing() -> None:
    world = World()
    world.start(service("web", 1))
    assert world.turn(Upserted(service("web", 1)), Upserted(Namespace(ObjectRef("Namespace", "", "shop")))) == 0


def test_dry_run_reports_and_writes_nothing() -> None:
    world = World()
    changes = world.planner.step([Upserted(ME), Upserted(service("web", 1)), Synced("services")])
    report = world.dataplane.converge(changes, synced=world.planner.synced, now=0.0, dry_run=True)
    assert report.writes == 3
    assert world.log == []
    assert world.dataplane.converge({}, synced=world.planner.synced, now=0.0).writes == 3
