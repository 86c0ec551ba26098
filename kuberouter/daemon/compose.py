"""Puts a node together from its settings: the parts of its controllers, and the sources and drivers that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kuberouter.cluster.derived import namespace_isolation
from kuberouter.cluster.facts import ours
from kuberouter.cluster.store import Cluster
from kuberouter.daemon import narrator
from kuberouter.daemon.balancer import Balancer
from kuberouter.daemon.balancercounts import BalancerCounts
from kuberouter.daemon.config import Config
from kuberouter.daemon.events import EventSink
from kuberouter.daemon.logs import log_setting
from kuberouter.daemon.parts.firewall import firewall_part, former_firewall
from kuberouter.daemon.parts.part import DriverMaker, Once, Part
from kuberouter.daemon.parts.proxy import former_proxy, proxy_part
from kuberouter.daemon.parts.router import former_router, router_part
from kuberouter.daemon.podz import PodStates
from kuberouter.daemon.sinks import LogSink
from kuberouter.daemon.xtables import Surveyed, XtablesChoice
from kuberouter.decode import Decode
from kuberouter.decode.localpod import LOCAL_PODS
from kuberouter.drivers.former import FormerChainDriver, FormerHookDriver
from kuberouter.drivers.host import SysctlDriver
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver
from kuberouter.drivers.ipvs import ServiceStatistics
from kuberouter.drivers.network import LinkDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import NODE_KNOWN, Planner
from kuberouter.model.core import Row
from kuberouter.model.host import Sysctl
from kuberouter.model.meter import UNMETERED, Meter
from kuberouter.model.netfilter import Chain, FormerChain, FormerHook, Hook, IpSet, Member, Rule
from kuberouter.model.network import Link
from kuberouter.model.nftables import NftChain
from kuberouter.model.ports import Informer, Living, Sink, Source
from kuberouter.model.pulse import Pulse
from kuberouter.sources.apiserver import RESOURCES, ApiSource, local_pods
from kuberouter.sources.clock import ClockSource
from kuberouter.sources.hostnet import HostSource
from kuberouter.sources.lease import Elector
from kuberouter.sources.netfilter import NetfilterSource
from kuberouter.wire.kubeapi import connect

if TYPE_CHECKING:
    from kuberouter.daemon.telemetry import Telemetry


class Composition:
    """A node, ready to run."""

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        sources: list[Source],
        parts: list[Part],
        telemetry: Telemetry | None,
        *,
        synced: Container[str] = (),
        pods: PodStates | None = None,
        balancer: Balancer | None = None,
    ) -> None:
        """`synced` are the names of the sources whose first picture is whole; `pods` is None without the firewall."""
        self.pods = pods
        self.balancer = balancer
        """The allocator of load balancer addresses: no part of the engine's work."""
        self.telemetry = telemetry
        self.engine = engine
        self.inbox = inbox
        self.sources = sources
        self._parts = {part.name: part for part in parts}
        self._synced = synced
        self.clocks: Mapping[str, ClockSource] = {}
        """By the flag that says how often, what has tables read again."""

    @property
    def pulses(self) -> Mapping[str, Pulse]:
        """Of every loop without which the daemon does not do its work, by the name of its thread."""
        return {"engine": self.engine.pulse} | {s.name: s.pulse for s in self.sources if isinstance(s, Living)}

    def lacking(self) -> list[str]:
        """Kinds of API objects without which a controller does nothing and that are not all known yet, and why not."""
        needed = {name for part in self._parts.values() for name in part.watched if name in part.needs}
        troubles = {source.name: str(getattr(source, "trouble", "")) for source in self.sources}
        waiting = sorted(name for name in needed if name not in self._synced)
        return [": ".join(filter(None, (name, troubles.get(name)))) for name in waiting]

    def source_errors(self, controller: str) -> list[str]:
        """What keeps the sources of a controller from their work."""
        part = self._parts[controller]
        names = {*part.watched, "manifests", *(s.name for s in part.sources)}
        return [
            f"{source.name}: {trouble}"
            for source in self.sources
            if source.name in names and (trouble := getattr(source, "trouble", ""))
        ]


def compose(config: Config) -> Composition:
    """Build everything from the settings. Raises Unavailable when not even a start is possible."""
    parts: list[Part] = []
    if config.proxy is not None:
        parts.append(proxy_part(config.proxy))
    if config.router is not None:
        parts.append(router_part(config.router, config.node.name))
    if config.firewall is not None:
        per_pod = config.metrics is not None and config.metrics.per_policy
        parts.append(firewall_part(config.firewall, per_pod=per_pod))
    inbox = Inbox()
    sinks: list[Sink] = [LogSink()]
    sources, balancer = _api_sources(config, parts, sinks)
    journal = Journal(sinks)
    clocks: dict[str, ClockSource] = {}
    if parts:
        sources.append(HostSource(ours, routes=config.router is not None))
    if any(Hook in part.drivers or NftChain in part.drivers for part in parts):
        sources.append(NetfilterSource(tuple(prefix for part in parts for prefix in part.chain_prefixes)))
    for part in parts:
        # Several parts may listen to the same source.
        sources += [source for source in part.sources if source.name not in {other.name for other in sources}]
        clocks |= {flag: ClockSource(f"{part.name} audit", period, tables) for flag, period, tables in part.audits}
    sources += clocks.values()
    telemetry = _telemetry(config, parts)
    meter = telemetry or UNMETERED
    prefixes = tuple(prefix for part in parts for prefix in part.chain_prefixes)
    families = config.node.families
    mode, note = config.iptables_mode, Path("/run/kube-router/iptables-variant")
    xtables = XtablesChoice(mode, config.node.name, families, prefixes, journal, meter=meter, note=note)
    tables = _tables(config, parts, xtables, meter)
    rows = [table.row for table in tables]
    derive = [namespace_isolation] if config.firewall is not None and config.firewall.namespace_annotation else []
    history = next((part.history for part in parts if part.history is not None), None)
    dependents = [d for part in parts for d in part.dependents]
    cluster = Cluster(config.node, dependents, derive, graces=history is not None)
    compilers = [c for part in parts for c in part.compilers]
    planner = Planner(cluster, compilers, [*rows, Rule], journal, history=history)
    controllers = [Controller(p.name, p.needs | p.ready_with | {NODE_KNOWN}, p.strict) for p in parts]
    dataplane = Dataplane(
        tables,
        planner.ledgers,
        stopwatch=time.monotonic,
        # Pods run without the service proxy as well.
        counts=lambda row, key: planner.controller_of(row, key) in ("router", "firewall"),
    )
    engine = Engine(inbox, planner, dataplane, controllers, clock=time.monotonic, observe=_observer(telemetry))
    for part in parts:
        part.alive = engine.alive
        part.desired = lambda row: planner.ledgers[row].desired
        part.view = lambda: cluster
    if telemetry is not None:
        telemetry.informers = {s.name: s.silence for s in sources if isinstance(s, Informer)}
        telemetry.watch(engine, planner, dataplane, inbox)
        telemetry.more += (show for part in parts for show in part.shows)
        if config.proxy is not None:
            from kuberouter.daemon.servicecounts import ServiceCounts

            statistics = Once(ServiceStatistics)
            telemetry.more.append(ServiceCounts(planner, lambda: statistics.get().read(), meter=telemetry).show)
        if config.metrics and config.metrics.per_policy and config.firewall:
            from kuberouter.daemon.policycounts import IptablesCounters, NftCounters, PolicyCounts

            iptables = IptablesCounters(lambda: xtables.found, families)
            counters = NftCounters(families) if config.firewall.nftables else iptables
            telemetry.more.append(PolicyCounts(planner, counters).show)
        if balancer is not None:
            telemetry.more.append(BalancerCounts(balancer).show)
            telemetry.beside.append(balancer.state)
    pods = [PodStates(engine, planner, dataplane, c) for c in controllers if c.name == "firewall"]
    composition = Composition(
        engine,
        inbox,
        sources,
        parts,
        telemetry,
        synced=planner.synced,
        pods=next(iter(pods), None),
        balancer=balancer,
    )
    if telemetry is not None:
        telemetry.pulses = composition.pulses.values
    composition.clocks = clocks
    return composition


def _observer(telemetry: Telemetry | None) -> Callable[[Report], None]:
    """Who hears of each pass: the log, and the metrics if there are any."""

    def observe(report: Report) -> None:
        narrator.turned(report)
        if telemetry is not None:
            telemetry.turned(report)

    return observe


def _telemetry(config: Config, parts: list[Part]) -> Telemetry | None:
    if config.metrics is None:
        return None
    # The client library costs memory and time at the start: only who asked for metrics pays.
    from kuberouter.daemon.telemetry import Telemetry

    sources = dict.fromkeys(name for part in parts for name in (*sorted(part.needs), *part.removals_await.values()))
    return Telemetry({part.name: tuple(part.drivers) for part in parts}, tuple(sources))


def _api_sources(config: Config, parts: list[Part], sinks: list[Sink]) -> tuple[list[Source], Balancer | None]:
    """Where the cluster is known from, and who works on an apiserver only; that is also told of problems."""
    wanted = tuple(dict.fromkeys(name for part in parts for name in part.watched))
    if config.manifests:
        # Only this source needs a reader of YAML.
        from kuberouter.sources.manifests import ManifestSource

        return [ManifestSource(Path(config.manifests), wanted)], None
    api = connect(config.kubeconfig, config.master)
    events = EventSink(api, config.node.name)
    sinks.append(events)
    resources = {**RESOURCES, LOCAL_PODS: local_pods(config.node.name)}
    sources: list[Source] = [*(ApiSource(api, resources[name], _decoder(name, parts)) for name in wanted), events]
    if (settings := config.balancer) is None:
        return sources, None
    elector = Elector(api, settings.namespace, settings.identity)
    # Sinks of its own, for it is on a thread of its own.
    balancer = Balancer(api, settings, elector, (LogSink(), events))
    return [*sources, elector, balancer], balancer


def _decoder(name: str, parts: list[Part]) -> Decode | None:
    """How to read a watched kind if all who watch it need only a little of it."""
    watching = [part for part in parts if name in part.watched]
    return watching[0].brief.get(name) if len(watching) == 1 else None


def _tables(config: Config, parts: list[Part], xtables: XtablesChoice, meter: Meter) -> list[Table[Any]]:
    """One table per row type. Of a table that several controllers write, each one's sources guard the removals."""
    if not parts:
        # Nothing of the kernel is touched, nor even looked at.
        return []
    families = config.node.families
    prefixes = tuple(prefix for part in parts for prefix in part.chain_prefixes)
    sets = tuple(name for part in parts for name in part.sets)
    ranks = tuple(rank for part in parts for rank in part.hooks)
    links = tuple(name for part in parts for name in part.links)
    link_prefixes = tuple(prefix for part in parts for prefix in part.link_prefixes)

    def owns_set(name: str) -> bool:
        return name.removeprefix("inet6:").startswith(sets)

    shared: dict[type[Row], DriverMaker] = {
        Sysctl: lambda: SysctlDriver(changed=log_setting),
        Link: lambda: LinkDriver(links, link_prefixes),
        IpSet: lambda: SetDriver(owns_set),
        Member: lambda: MemberDriver(owns_set, meter),
        Chain: lambda: Surveyed(ChainDriver(xtables.get(), families, prefixes), xtables),
        Hook: lambda: HookDriver(xtables.get(), families, ranks=ranks),
    }
    found: list[Table[Any]] = []
    needs = frozenset((NODE_KNOWN, *(need for part in parts for need in part.needs)))
    for row in dict.fromkeys(row for part in parts for row in part.drivers):
        users = [part for part in parts if row in part.drivers]
        make = shared.get(row) or users[0].drivers[row]
        reading, removing = awaited(row, users)
        told = [part.inherit[row] for part in users if row in part.inherit]
        inherit = told[0] if told else lambda _: None
        found.append(
            Table(
                row,
                _Lazy(make),
                removal_needs=removing,
                read_needs=reading,
                addition_needs=needs,
                inherit=inherit,
            )
        )
    former: dict[type[Row], DriverMaker] = {
        FormerChain: lambda: FormerChainDriver(xtables.aside(), prefixes),
        FormerHook: lambda: FormerHookDriver(xtables.aside(), ranks),
    }
    if config.proxy is not None:
        former |= former_proxy(families, xtables)
    if config.router is not None:
        former |= former_router(xtables)
    if config.firewall is not None:
        former |= former_firewall(config.firewall, xtables)
    return found + [Table(row, _Lazy(make), removal_needs=needs) for row, make in former.items()]


def awaited(row: type[Row], users: Sequence[Part]) -> tuple[frozenset[str], frozenset[str]]:
    """The sources that must be in sync before a table is read for the first time, and before rows of it are removed.

    What removals await besides may come of the first read, so that never waits for it.
    """
    needs = frozenset((NODE_KNOWN, *(need for part in users for need in part.needs)))
    besides = (part.removals_await[row] for part in users if row in part.removals_await)
    return needs if any(row in part.read_late for part in users) else frozenset(), needs.union(besides)


class _Lazy:
    """A driver made at its first use: what it lacks is then reported by its table, and tried again."""

    def __init__(self, make: DriverMaker) -> None:
        self._make = make
        self._driver: Any = None

    def _get(self) -> Any:
        if self._driver is None:
            self._driver = self._make()
        return self._driver

    def read(self) -> Any:
        return self._get().read()

    def owns(self, row: Row) -> bool:
        return bool(self._get().owns(row))

    def write(self, batch: Any) -> Any:
        return self._get().write(batch)
