"""What the metrics are made of: times as they are reported, counts of every pass, and a look at the state per scrape.

Made only where metrics are asked for, and only then is the client library loaded. Reports come from the engine's
thread, scrapes from those of the web server. The library keeps histograms and looks after the process; names and text
are `daemon/metrics.py`, because the library would rename counters.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric as Collected

from kuberouter import __version__
from kuberouter.daemon.metrics import BUCKETS, FIREWALL, METRICS, PREFIX, PROXY, ROUTER, Sample, Series, expose, series
from kuberouter.daemon.steady import steady
from kuberouter.engine.dataplane import Dataplane, Report
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.loop import Engine
from kuberouter.engine.planner import Planner
from kuberouter.model.bgp import Path, Peer
from kuberouter.model.core import Reason, Row
from kuberouter.model.netfilter import Chain, IpSet
from kuberouter.model.network import Route
from kuberouter.model.nftables import NftChain, NftSet
from kuberouter.model.pulse import Pulse

Kinds = Mapping[str, tuple[type[Row], ...]]

REPORTED = {
    "iptables IPV4 save": "controller_iptables_v4_save_time",
    "iptables IPV6 save": "controller_iptables_v6_save_time",
    "iptables IPV4 restore": "controller_iptables_v4_restore_time",
    "iptables IPV6 restore": "controller_iptables_v6_restore_time",
    "ipset IPV4 restore": "controller_policy_ipset_v4_restore_time",
    "ipset IPV6 restore": "controller_policy_ipset_v6_restore_time",
    "IPVS statistics": "controller_ipvs_metrics_export_time",
}
"""What drivers report, and the histogram that it belongs to."""
PASS_TIME = {
    FIREWALL: "controller_iptables_sync_time",
    ROUTER: "controller_routes_sync_time",
    PROXY: "controller_ipvs_services_sync_time",
}
TABLE_TIME: tuple[tuple[str, str, tuple[type[Row], ...]], ...] = (
    (FIREWALL, "controller_policy_chains_sync_time", (Chain, NftChain)),
    (ROUTER, "host_routes_sync_time", (Route,)),
    (ROUTER, "controller_bgp_internal_peers_sync_time", (Peer,)),
)
"""Histograms of the time for some tables in a pass that concerned a controller."""
POLICY_SETS = ("KUBE-SRC-", "KUBE-DST-", "inet6:KUBE-")
POLICY = "NetworkPolicy"
MOST_POLICIES = 500
"""Policies that are shown with their problems one by one; `problems` counts them all."""


class Watched(NamedTuple):
    """What a scrape looks at. The engine's thread works on it meanwhile."""

    engine: Engine
    planner: Planner
    dataplane: Dataplane
    inbox: Inbox


class Telemetry:
    """A meter for drivers, an observer of passes, and the page for scrapes."""

    def __init__(self, controllers: Kinds, sources: tuple[str, ...]) -> None:
        """For these controllers, with the tables of each, and the sources that they need."""
        self._controllers = controllers
        self._sources = sources
        self._histograms = {
            m.name: Histogram(PREFIX + m.name, m.help, registry=None, buckets=BUCKETS)
            for m in METRICS
            if m.type == "histogram" and (not m.condition or m.condition in controllers)
        }
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)
        self._watched: Watched | None = None
        self.more: list[Callable[[], Iterable[Series]]] = []
        """Others who have something to show."""
        self._errors: Counter[tuple[str, str]] = Counter()
        self._found: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()
        self._passes: Counter[tuple[str, str]] = Counter(
            {(name, result): 0 for name in controllers for result in ("success", "error")}
        )
        self.informers: Mapping[str, Callable[[], float]] = {}
        """Of each source that is told of API objects, how long it has heard nothing, in seconds."""
        self.pulses: Callable[[], Iterable[Pulse]] = tuple
        """Of the loops that are to get on."""
        self.beside: list[Callable[[], tuple[str, bool, str]]] = []
        """Controllers that are no work of the engine: name, whether it is ready, and why not."""
        self._astray: dict[type[Row], int] = {}
        """Objects that an audit found changed and that are not yet put right."""
        self._routes = [0, 0]
        self._sent = dict.fromkeys((("pod-route",), ("advertise-vip",), ("withdraw-vip",)), 0)
        self._success: dict[str, float] = {}

    def observe(self, what: str, seconds: float) -> None:
        """A driver tells how long something took."""
        self._time(REPORTED.get(what, ""), seconds)

    def _time(self, name: str, seconds: float) -> None:
        if (histogram := self._histograms.get(name)) is not None:
            histogram.observe(seconds)

    def watch(self, engine: Engine, planner: Planner, dataplane: Dataplane, inbox: Inbox) -> None:
        """From now on scrapes show the state of these."""
        self._watched = Watched(engine, planner, dataplane, inbox)

    def turned(self, report: Report) -> None:
        """The engine has made a pass. Called from its thread."""
        watched = self._watched
        if watched is None:
            return
        for controller, tables in self._controllers.items():
            refused = any(row in tables for row, _ in report.errors)
            concerned = controller in report.controllers or not report.read.isdisjoint(tables)
            if concerned:
                self._passed(controller, tables, report)
            if concerned or refused:
                self._passes[controller, "error" if refused else "success"] += 1
        for (row, operation), count in report.errors.items():
            self._errors[row.__name__, operation] += count
        self._drifted(report, watched.dataplane)
        self._routed(report)
        if report.settled:
            now = time.time()
            self._success.update((state.name, now) for state in watched.engine.states if state.ready)

    def _passed(self, controller: str, tables: tuple[type[Row], ...], report: Report) -> None:
        spent = sum(report.seconds.get(row, 0.0) for row in tables)
        self._time(PASS_TIME.get(controller, ""), report.planned + spent)
        for whose, name, rows in TABLE_TIME:
            if whose == controller and any(row in report.seconds for row in rows):
                self._time(name, sum(report.seconds.get(row, 0.0) for row in rows))

    def _drifted(self, report: Report, dataplane: Dataplane) -> None:
        for row, count in report.drift.items():
            if count:
                self._found[row.__name__] += count
                self._astray[row] = self._astray.get(row, 0) + count
        for row, count in list(self._astray.items()):
            left = min(count, dataplane.tables[row].mirror.pending)
            self._repaired[row.__name__] += count - left
            self._astray[row] = left
            if not left:
                del self._astray[row]

    def _routed(self, report: Report) -> None:
        for row, batch in report.batches:
            if row is Route:
                put = [*(r.key for r in batch.add), *(new.key for _, new in batch.change)]
                self._routes[0] += sum((Route, key) not in report.failed for key in put)
                self._routes[1] += sum((Route, r.key) not in report.failed for r in batch.remove)
            elif row is Path:
                for path in (*batch.add, *(new for _, new in batch.change)):
                    if (Path, path.key) not in report.failed:
                        self._sent["advertise-vip" if _is_vip(path) else "pod-route",] += 1
                gone = (path for path in batch.remove if (Path, path.key) not in report.failed)
                self._sent["withdraw-vip",] += sum(map(_is_vip, gone))

    # --- scrapes -----------------------------------------------------------------------------------------------------

    def page(self) -> str:
        """The text of one scrape."""
        return expose(self._all())

    def _all(self) -> Iterator[Series]:
        yield series(
            "build_info", {(f"python{platform.python_version()}", platform.python_implementation(), __version__): 1}
        )
        for histogram in self._histograms.values():
            yield from map(_adopted, histogram.collect())
        yield from map(_adopted, self._process.collect())
        yield series("operation_errors_total", steady(lambda: dict(self._errors)))
        yield series("sync_total", dict(self._passes))
        yield series("informer_lag_seconds", {(name,): silence() for name, silence in self.informers.items()})
        yield series("drift_found_total", steady(lambda: {(kind,): n for kind, n in self._found.items()}))
        yield series("drift_repaired_total", steady(lambda: {(kind,): n for kind, n in self._repaired.items()}))
        yield series(
            "controller_last_success_timestamp_seconds",
            steady(lambda: {(name,): at for name, at in self._success.items()}),
        )
        if self._watched is not None:
            yield from self._state(self._watched)
        for show in self.more:
            yield from show()

    def _state(self, watched: Watched) -> Iterator[Series]:
        engine, planner, dataplane = watched.engine, watched.planner, watched.dataplane
        tables = dataplane.tables.values()
        beats = [engine.pulse.beat, *(pulse.beat for pulse in self.pulses())]
        yield series("heartbeat_age_seconds", max(0.0, time.monotonic() - min(beats)))
        ready = {(state.name,): int(state.ready) for state in engine.states}
        yield series("controller_ready", ready | {(s[0],): int(s[1]) for s in (state() for state in self.beside)})
        yield series("source_synced", {(name,): int(name in planner.synced) for name in self._sources})
        depth = {
            ("events",): len(watched.inbox),
            ("owners",): steady(lambda: planner.backlog),
            ("rows",): sum(table.mirror.pending for table in tables),
        }
        yield series("queue_depth", depth)
        yield series("owned_objects", {(t.row.__name__,): len(planner.ledgers[t.row]) for t in tables})
        yield series("failed_objects", {(t.row.__name__,): len(t.mirror.failures) for t in tables})
        yield series("table_available", {(t.row.__name__,): int(not t.error) for t in tables})
        yield from self._problems(watched)
        if FIREWALL in self._controllers:
            yield series("controller_policy_chains", steady(lambda: _policy_chains(planner)))
            yield series("controller_policy_ipsets", steady(lambda: _policy_sets(planner)))
        if ROUTER in self._controllers:
            yield series("host_routes_synced", len(planner.ledgers[Route]))
            yield series("host_routes_added", self._routes[0])
            yield series("host_routes_removed", self._routes[1])
            yield series("controller_bgp_advertisements_sent", self._sent)

    def _problems(self, watched: Watched) -> Iterator[Series]:
        standing = steady(lambda: set(watched.planner.journal.standing))
        yield series("problems", Counter((p.owner.kind, p.reason.value) for p in standing))
        if FIREWALL in self._controllers:
            told = (p for p in standing if p.owner.kind == POLICY and p.reason is not Reason.FAILED)
            per_policy = Counter((p.owner.namespace, p.owner.name, p.reason.value) for p in told)
            # Not all that is refused is told one by one.
            per_policy.update(steady(lambda: _refused(watched)))
            yield series("policy_problems", dict(sorted(per_policy.items())[:MOST_POLICIES]))


def _is_vip(path: Path) -> bool:
    """What is told of a Service is one address; pods have more of them."""
    prefix = path.key.prefix
    return prefix.length == len(prefix.address) * 8


def _policy_chains(planner: Planner) -> int:
    """Chains that a policy claims; the fixed ones and those that combine them do not count."""
    found = 0
    for row in (Chain, NftChain):
        if (ledger := planner.ledgers.get(row)) is not None:
            holders = (ledger.holder(key) for key in list(ledger.desired))
            found += sum(holder is not None and holder.subject.kind == POLICY for holder in holders)
    return found


def _policy_sets(planner: Planner) -> int:
    """Sets of the firewall, of whatever tool."""
    found = len(planner.ledgers[NftSet]) if NftSet in planner.ledgers else 0
    if (ledger := planner.ledgers.get(IpSet)) is not None:
        found += sum(row.key.name.startswith(POLICY_SETS) for row in list(ledger))
    return found


def _refused(watched: Watched) -> Counter[tuple[str, str, str]]:
    """Policies of which the kernel does not take something, so that it stands closed."""
    found: Counter[tuple[str, str, str]] = Counter()
    for row, table in watched.dataplane.tables.items():
        for key in list(table.mirror.failures):
            for owner in watched.planner.ledgers[row].owners(key):
                if owner.subject.kind == POLICY:
                    found[owner.subject.namespace, owner.subject.name, "Failed"] += 1
    return found


def _adopted(metric: Collected) -> Series:
    """A metric of the library. Its counters bear their suffix in the sample's name; when it was made nobody asked."""
    name = metric.name + ("_total" if metric.type == "counter" else "")
    samples = (
        Sample(sample.name.removeprefix(name), tuple(sample.labels.items()), sample.value)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    )
    kind = "gauge" if metric.type in ("info", "stateset") else metric.type
    return Series(name, kind, metric.documentation, tuple(samples))
