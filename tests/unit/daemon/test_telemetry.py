"""What a scrape shows of a node that works, fails, drifts and recovers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kuberouter import __version__
from kuberouter.cluster.store import Cluster
from kuberouter.daemon.metrics import METRICS, PREFIX
from kuberouter.daemon.steady import LOOKS, steady
from kuberouter.daemon.telemetry import Telemetry
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner
from kuberouter.model.bgp import Path, PathKey
from kuberouter.model.core import (
    Batch,
    Family,
    ObjectRef,
    Outcome,
    Owner,
    Prefix,
    Problem,
    Reason,
    Row,
    Unavailable,
)
from kuberouter.model.events import Drifted
from kuberouter.model.ipvs import VirtualService
from kuberouter.model.netfilter import Chain, ChainKey, IpSet, IpSetKey, SetType, make_chain
from kuberouter.model.netfilter import Table as Xtable
from kuberouter.model.network import Route, RouteKey
from kuberouter.model.settings import NodeSettings

TABLES: tuple[type[Row], ...] = (IpSet, Chain, Route, VirtualService, Path)
CONTROLLERS: dict[str, tuple[type[Row], ...]] = {
    "firewall": (IpSet, Chain),
    "router": (Route, Path),
    "service-proxy": (VirtualService,),
}
POLICY = ObjectRef("NetworkPolicy", "shop", "web")
OWNER = Owner("policy", POLICY)
SET = IpSet(IpSetKey("KUBE-SRC-A"), SetType.HASH_IP, Family.IPV4)
CHAIN = make_chain(ChainKey(Family.IPV4, Xtable.FILTER, "KUBE-NWPLCY-A"), ("-j DROP",))
ROUTES = tuple(Route(RouteKey(254, Prefix(bytes((10, 0, n, 0)), 24)), devices=("eth0",)) for n in (1, 2))


class Moody(MemoryDriver[Any]):
    """A driver that fails as it is told."""

    away = False
    refuses: tuple[Hashable, ...] = ()

    def read(self) -> Iterable[Any]:
        if self.away:
            raise Unavailable("kernel module moody is missing")
        return super().read()

    def write(self, batch: Batch[Any]) -> Outcome:
        super().write(batch)
        for key in self.refuses:
            self.rows.pop(key, None)
        return Outcome(dict.fromkeys(self.refuses, "refused"))


class Node:
    """An engine over moody drivers with telemetry. Its clock advances by a quarter of a second at every look."""

    def __init__(self) -> None:
        self.time = 0.0
        self.inbox = Inbox()
        self.journal = Journal()
        self.drivers = {row: Moody() for row in TABLES}
        self.planner = Planner(Cluster(NodeSettings("n1")), (), TABLES, self.journal)
        tables = [Table(row, driver) for row, driver in self.drivers.items()]
        dataplane = Dataplane(tables, self.planner.ledgers, stopwatch=self.clock)
        self.telemetry = Telemetry(CONTROLLERS, ("nodes", "pods"))
        controllers = [Controller(name, frozenset(), rows) for name, rows in CONTROLLERS.items()]
        self.engine = Engine(
            self.inbox, self.planner, dataplane, controllers, clock=self.clock, observe=self.telemetry.turned
        )
        self.telemetry.watch(self.engine, self.planner, dataplane, self.inbox)

    def clock(self) -> float:
        self.time += 0.25
        return self.time

    def claim(self, row: Row) -> None:
        """Have a policy claim a row, and the table read so that it is written."""
        ledger = self.planner.ledgers[type(row)]
        ledger.claim(OWNER, [*ledger.claimed(OWNER), row])
        self.turn(type(row))

    def turn(self, *drifted: type[Row]) -> None:
        for row in drifted:
            self.inbox.put(Drifted(row))
        self.inbox.wake()
        self.engine.turn()

    def scrape(self) -> dict[tuple[str, ...], float]:
        """Samples by name without prefix and the values of their labels."""
        found: dict[tuple[str, ...], float] = {}
        for family in text_string_to_metric_families(self.telemetry.page()):
            assert family.documentation, family
            for sample in family.samples:
                key = (sample.name.removeprefix(PREFIX), *sample.labels.values())
                assert key not in found
                found[key] = sample.value
        return found


@pytest.fixture
def node() -> Node:
    node = Node()
    node.turn()
    return node


def test_names_and_types_are_those_of_the_table(node: Node) -> None:
    families = {f.name: f for f in text_string_to_metric_families(node.telemetry.page())}
    shown = {name.removeprefix(PREFIX): f.type for name, f in families.items() if name.startswith(PREFIX)}
    table = {metric.name.removesuffix("_total"): metric.type for metric in METRICS}
    assert shown.items() <= table.items()
    assert {m.name for m in METRICS if m.type == "histogram"} <= shown.keys()
    assert not any(sample.name.endswith("_created") for f in families.values() for sample in f.samples)
    assert families["process_cpu_seconds"].samples[0].name == "process_cpu_seconds_total"
    (build,) = families[f"{PREFIX}build_info"].samples
    assert build.value == 1
    assert build.labels["version"] == __version__
    assert build.labels["goversion"].startswith("python3.")


def test_histograms_are_only_those_of_the_controllers_that_run() -> None:
    page = Telemetry({"router": (Route,)}, ()).page()
    assert "host_routes_sync_time_bucket" in page
    assert "controller_iptables_sync_time" not in page
    assert "controller_ipvs_services" not in page


def test_what_drivers_report(node: Node) -> None:
    for seconds in (0.004, 0.3, 60.0):
        node.telemetry.observe("iptables IPV4 save", seconds)
    node.telemetry.observe("nobody asked for this", 1.0)
    found = node.scrape()
    name = "controller_iptables_v4_save_time"
    bounds = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf")
    buckets = [found[f"{name}_bucket", bound] for bound in bounds]
    assert buckets == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]
    assert found[f"{name}_count",] == 3
    assert found[f"{name}_sum",] == pytest.approx(60.304)


def test_a_pass_counts_for_the_controllers_that_it_concerned(node: Node) -> None:
    before = node.scrape()
    node.turn()
    assert node.scrape()["controller_iptables_sync_time_count",] == before["controller_iptables_sync_time_count",]
    node.claim(CHAIN)
    after = node.scrape()
    firewall, chains = "controller_iptables_sync_time", "controller_policy_chains_sync_time"
    assert after[f"{firewall}_count",] == before[f"{firewall}_count",] + 1
    assert after["controller_routes_sync_time_count",] == before["controller_routes_sync_time_count",]
    # A look at the clock before and after each of: plan, read, write.
    assert after[f"{firewall}_sum",] - before[f"{firewall}_sum",] == 0.75
    assert after[f"{chains}_sum",] - before[f"{chains}_sum",] == 0.5


def test_what_is_owned_waits_and_is_in_force(node: Node) -> None:
    """Pain 28: growth of what is owned can be seen."""
    node.planner.synced.add("nodes")
    node.claim(SET)
    node.claim(CHAIN)
    found = node.scrape()
    assert (found["owned_objects", "IpSet"], found["owned_objects", "Route"]) == (1, 0)
    assert (found["controller_policy_ipsets",], found["controller_policy_chains",]) == (1, 1)
    assert (found["source_synced", "nodes"], found["source_synced", "pods"]) == (1, 0)
    assert [found["queue_depth", queue] for queue in ("events", "owners", "rows")] == [0, 0, 0]
    assert all(found["controller_ready", name] == 1 for name in CONTROLLERS)
    assert found["controller_last_success_timestamp_seconds", "firewall"] > 1.7e9
    node.inbox.put(Drifted(Route))
    assert node.scrape()["queue_depth", "events"] == 1


def test_refused_rows_name_the_policy_that_they_are_for(node: Node) -> None:
    """W30, pain 29."""
    node.drivers[Chain].refuses = (CHAIN.key,)
    node.claim(CHAIN)
    found = node.scrape()
    assert found["operation_errors_total", "Chain", "add"] == 1
    assert found["failed_objects", "Chain"] == 1
    assert found["problems", "Table", "Failed"] == 1
    assert found["policy_problems", "shop", "web", "Failed"] == 1
    node.drivers[Chain].refuses = ()
    node.turn(Chain)
    found = node.scrape()
    assert found["failed_objects", "Chain"] == 0
    assert ("policy_problems", "shop", "web", "Failed") not in found
    assert ("problems", "Table", "Failed") not in found


def test_passes_count_with_what_became_of_them(node: Node) -> None:
    passes = lambda: [node.scrape()["sync_total", "firewall", result] for result in ("success", "error")]  # noqa: E731
    (well, badly), (others, _) = passes(), [node.scrape()["sync_total", "router", r] for r in ("success", "error")]
    node.claim(CHAIN)
    assert passes() == [well + 1, badly]
    node.drivers[IpSet].refuses = (SET.key,)
    node.claim(SET)
    assert passes() == [well + 1, badly + 1]
    node.drivers[IpSet].away = True
    node.turn(IpSet)
    assert passes() == [well + 1, badly + 2]
    assert node.scrape()["sync_total", "router", "success"] == others


def test_how_long_nothing_was_heard_of_a_kind(node: Node) -> None:
    node.telemetry.informers = {"services": lambda: 61.5}
    assert node.scrape()["informer_lag_seconds", "services"] == 61.5


def test_a_table_that_is_away(node: Node) -> None:
    node.drivers[VirtualService].away = True
    success = node.scrape()["controller_last_success_timestamp_seconds", "service-proxy"]
    node.turn(VirtualService)
    found = node.scrape()
    assert found["table_available", "VirtualService"] == 0
    assert found["operation_errors_total", "VirtualService", "read"] == 1
    assert found["controller_ready", "service-proxy"] == 0
    assert found["controller_ready", "firewall"] == 1
    assert found["problems", "Table", "Missing"] == 1
    assert found["controller_last_success_timestamp_seconds", "service-proxy"] == success
    node.drivers[VirtualService].away = False
    node.turn(VirtualService)
    assert node.scrape()["table_available", "VirtualService"] == 1


def test_drift_is_found_and_repaired(node: Node) -> None:
    node.claim(ROUTES[0])
    node.claim(ROUTES[1])
    before = node.scrape().get(("drift_found_total", "Route"), 0)
    driver = node.drivers[Route]
    driver.rows.clear()
    driver.refuses = (ROUTES[1].key,)
    node.turn(Route)
    found = node.scrape()
    assert found["drift_found_total", "Route"] == before + 2
    assert found["drift_repaired_total", "Route"] == before + 1
    driver.refuses = ()
    node.time += 100.0
    node.turn()
    assert node.scrape()["drift_repaired_total", "Route"] == before + 2


def test_routes_count_as_they_are_written_under_names_without_suffix(node: Node) -> None:
    # The parser of the client library adds the suffix that these names lack, so it is not asked.
    node.claim(ROUTES[0])
    node.claim(ROUTES[1])
    assert _routes(node) == ["host_routes_added 2", "host_routes_removed 0", "host_routes_synced 2"]
    node.planner.ledgers[Route].claim(OWNER, ROUTES[:1])
    node.turn(Route)
    assert _routes(node) == ["host_routes_added 2", "host_routes_removed 1", "host_routes_synced 1"]


def _routes(node: Node) -> list[str]:
    lines = (line.removeprefix(PREFIX) for line in node.telemetry.page().splitlines())
    return sorted(
        line for line in lines if line.startswith(("host_routes_added", "host_routes_removed", "host_routes_synced"))
    )


def test_one_problem_of_a_policy_told_by_two_is_one(node: Node) -> None:
    problem = Problem(POLICY, "spec", Reason.MALFORMED, "cannot be read")
    node.journal.report(OWNER, (problem,))
    node.journal.report(POLICY, (problem,))
    found = node.scrape()
    assert found["policy_problems", "shop", "web", "Malformed"] == 1
    assert found["problems", "NetworkPolicy", "Malformed"] == 1


def test_a_look_that_is_disturbed_is_taken_again() -> None:
    left = LOOKS

    def look() -> str:
        nonlocal left
        left -= 1
        if left:
            raise RuntimeError("dictionary changed size during iteration")
        return "seen"

    assert steady(look) == "seen"
    with pytest.raises(RuntimeError):
        steady(lambda: next(_changing()))


def _changing() -> Iterable[Any]:
    book = {1: 1, 2: 2}
    for key in book:
        del book[key]
        yield from ()


def test_what_peers_are_told_counts_when_it_changes_pods_and_services_apart(node: Node) -> None:
    hop = bytes((192, 0, 2, 1))
    pods = Path(PathKey(Prefix(bytes((10, 244, 1, 0)), 24)), hop)
    vips = [Path(PathKey(Prefix(bytes((203, 0, 113, n)), 32)), hop) for n in (1, 2, 3)]

    def sent() -> list[float]:
        name = f"{PREFIX}controller_bgp_advertisements_sent"
        lines = dict(line.rsplit(" ", 1) for line in node.telemetry.page().splitlines() if line.startswith(name))
        kinds = ("pod-route", "advertise-vip", "withdraw-vip")
        assert len(lines) == len(kinds)
        return [float(lines[f'{name}{{type="{kind}"}}']) for kind in kinds]

    assert sent() == [0, 0, 0]
    node.drivers[Path].refuses = (vips[2].key,)
    node.planner.ledgers[Path].claim(OWNER, [pods, *vips])
    node.turn(Path)
    assert sent() == [1, 2, 0]
    node.planner.ledgers[Path].claim(OWNER, [pods, vips[1]])
    node.turn(Path)
    assert sent() == [1, 2, 1]
    node.turn(Path)
    assert sent() == [1, 2, 1], "nothing changed"
