"""The only file that names concrete sources, compilers and drivers: puts a node together from its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kuberouter.cluster.dependents import Dependents, policies, routing, services
from kuberouter.cluster.derived import namespace_isolation
from kuberouter.cluster.facts import ours
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.names import (
    BGP_SETS,
    BRIDGE_LINK,
    DUMMY_LINK,
    LOCAL_ADDRESS_SET,
    NODE_ADDRESS_SET,
    POD_SUBNET_SET,
    POLICY_PREFIX,
    SERVICE_ADDRESS_SET,
    SERVICES_CHAIN,
    SNAT_CHAIN,
    TUNNEL_PREFIX,
    TUNNEL_TABLE,
)
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.compilers.routing import COMPILERS as ROUTING_COMPILERS
from kuberouter.compilers.services import COMPILERS as SERVICE_COMPILERS
from kuberouter.daemon.config import Config
from kuberouter.daemon.events import EventSink
from kuberouter.daemon.sinks import LogSink
from kuberouter.daemon.xtables import XtablesChoice
from kuberouter.drivers import nftables as nft
from kuberouter.drivers.former import FormerChainDriver, FormerHookDriver, FormerIptablesDriver
from kuberouter.drivers.host import CniDriver, SysctlDriver
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver
from kuberouter.drivers.ipvs import DestinationDriver, VirtualServiceDriver
from kuberouter.drivers.network import AddressDriver, LinkDriver, PolicyRuleDriver, RouteDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import NODE_KNOWN, Planner, Registered
from kuberouter.model import bgp
from kuberouter.model.core import Family, Row
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.ipvs import Destination, VirtualService
from kuberouter.model.meter import UNMETERED, Meter
from kuberouter.model.netfilter import (
    Chain,
    FormerChain,
    FormerHook,
    FormerIptables,
    Hook,
    HookRank,
    IpSet,
    Member,
    Rule,
)
from kuberouter.model.network import TABLE_MAIN, Address, Link, PolicyRule, Route
from kuberouter.model.nftables import FormerTable, NftChain, NftElement, NftSet, NftTable, NftVerdict
from kuberouter.model.ports import Sink, Source
from kuberouter.model.settings import FirewallSettings, ProxySettings, RouterSettings
from kuberouter.sources.apiserver import RESOURCES, ApiSource
from kuberouter.sources.clock import ClockSource
from kuberouter.sources.hostnet import HostSource
from kuberouter.sources.netfilter import NetfilterSource
from kuberouter.sources.podlinks import PodLinkSource
from kuberouter.wire.kubeapi import connect

if TYPE_CHECKING:
    from kuberouter.daemon.telemetry import Telemetry

DriverMaker = Callable[[], Any]

FIREWALL_CHAINS = (
    "KUBE-ROUTER-INPUT",
    "KUBE-ROUTER-FORWARD",
    "KUBE-ROUTER-OUTPUT",
    "KUBE-ROUTER-POD-",
    "KUBE-POD-FW-",
    "KUBE-NWPLCY-",
)
"""Prefixes of the firewall's chains in iptables."""
FIREWALL_SETS = ("KUBE-SRC-", "KUBE-DST-")
"""Prefixes of its ipsets, without `inet6:`."""


class Part:
    """What one controller brings along."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.watched: tuple[str, ...] = ()
        """Kinds of API objects that it needs, by the name of their source."""
        self.sources: list[Source] = []
        self.compilers: list[Registered] = []
        self.dependents: list[Dependents] = []
        self.drivers: dict[type[Row], DriverMaker] = {}
        self.needs: frozenset[str] = frozenset()
        self.removals_await: dict[type[Row], str] = {}
        """A source that, besides `needs`, must be in sync before rows of a table are removed."""
        self.chain_prefixes: tuple[str, ...] = ()
        self.hooks: tuple[HookRank, ...] = ()
        """Ranks of its rules in builtin chains."""
        self.sets: tuple[str, ...] = ()
        """Names or prefixes of its sets, without `inet6:`."""
        self.links: tuple[str, ...] = ()
        """Names of the links that it makes."""
        self.link_prefixes: tuple[str, ...] = ()
        self.audits: list[tuple[float, tuple[type[Row], ...]]] = []


class Composition:
    """A node, ready to run."""

    def __init__(
        self, engine: Engine, inbox: Inbox, sources: list[Source], parts: list[Part], telemetry: Telemetry | None
    ) -> None:
        self.telemetry = telemetry
        self.engine = engine
        self.inbox = inbox
        self.sources = sources
        self._parts = {part.name: part for part in parts}

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
        parts.append(_proxy(config.proxy))
    if config.router is not None:
        parts.append(_router(config.router))
    if config.firewall is not None:
        parts.append(_firewall(config.firewall))
    inbox = Inbox()
    sinks: list[Sink] = [LogSink()]
    sources = _api_sources(config, parts, sinks)
    journal = Journal(sinks)
    sources.append(HostSource(ours))
    if any(Hook in part.drivers or NftChain in part.drivers for part in parts):
        sources.append(NetfilterSource(tuple(prefix for part in parts for prefix in part.chain_prefixes)))
    for part in parts:
        sources += part.sources
        sources += [ClockSource(f"{part.name} audit", period, tables) for period, tables in part.audits]
    telemetry = _telemetry(config, parts)
    meter = telemetry or UNMETERED
    prefixes = tuple(prefix for part in parts for prefix in part.chain_prefixes)
    families = config.node.families
    xtables = XtablesChoice(config.iptables_mode, config.node.name, families, prefixes, journal, meter=meter)
    tables = _tables(config, parts, xtables, meter)
    rows = [table.row for table in tables]
    derive = [namespace_isolation] if config.firewall is not None and config.firewall.namespace_annotation else []
    cluster = Cluster(config.node, [d for part in parts for d in part.dependents], derive)
    planner = Planner(cluster, [c for part in parts for c in part.compilers], [*rows, Rule], journal)
    controllers = [Controller(p.name, p.needs | {NODE_KNOWN}, tuple(p.drivers)) for p in parts]
    dataplane = Dataplane(tables, planner.ledgers, stopwatch=time.monotonic)
    observe = telemetry.turned if telemetry is not None else lambda _: None
    engine = Engine(inbox, planner, dataplane, controllers, clock=time.monotonic, observe=observe)
    if telemetry is not None:
        telemetry.watch(engine, planner, dataplane, inbox)
        if config.metrics and config.metrics.per_policy and config.firewall:
            from kuberouter.daemon.policycounts import IptablesCounters, NftCounters, PolicyCounts

            iptables = IptablesCounters(lambda: xtables.found, families)
            counters = NftCounters(families) if config.firewall.nftables else iptables
            telemetry.more.append(PolicyCounts(planner, counters).show)
    return Composition(engine, inbox, sources, parts, telemetry)


def _telemetry(config: Config, parts: list[Part]) -> Telemetry | None:
    if config.metrics is None:
        return None
    # The client library costs memory and time at the start: only who asked for metrics pays.
    from kuberouter.daemon.telemetry import Telemetry

    sources = dict.fromkeys(name for part in parts for name in (*sorted(part.needs), *part.removals_await.values()))
    return Telemetry({part.name: tuple(part.drivers) for part in parts}, tuple(sources))


def _api_sources(config: Config, parts: list[Part], sinks: list[Sink]) -> list[Source]:
    """Where the cluster is known from; an apiserver is also told of problems."""
    wanted = tuple(dict.fromkeys(name for part in parts for name in part.watched))
    if config.manifests:
        # Only this source needs a reader of YAML.
        from kuberouter.sources.manifests import ManifestSource

        return [ManifestSource(Path(config.manifests), wanted)]
    api = connect(config.kubeconfig, config.master)
    events = EventSink(api, config.node.name)
    sinks.append(events)
    return [*(ApiSource(api, RESOURCES[name]) for name in wanted), events]


def _tables(config: Config, parts: list[Part], xtables: XtablesChoice, meter: Meter) -> list[Table[Any]]:
    """One table per row type. Of a table that several controllers write, each one's sources guard the removals."""
    families = config.node.families
    prefixes = tuple(prefix for part in parts for prefix in part.chain_prefixes)
    sets = tuple(name for part in parts for name in part.sets)
    ranks = tuple(rank for part in parts for rank in part.hooks)
    links = tuple(name for part in parts for name in part.links)
    link_prefixes = tuple(prefix for part in parts for prefix in part.link_prefixes)

    def owns_set(name: str) -> bool:
        return name.removeprefix("inet6:").startswith(sets)

    shared: dict[type[Row], DriverMaker] = {
        Sysctl: SysctlDriver,
        Link: lambda: LinkDriver(links, link_prefixes),
        IpSet: lambda: SetDriver(owns_set),
        Member: lambda: MemberDriver(owns_set, meter),
        Chain: lambda: ChainDriver(xtables.get(), families, prefixes),
        Hook: lambda: HookDriver(xtables.get(), families, ranks=ranks),
    }
    found: list[Table[Any]] = []
    for row in dict.fromkeys(row for part in parts for row in part.drivers):
        users = [part for part in parts if row in part.drivers]
        make = shared.get(row) or users[0].drivers[row]
        awaited = [part.removals_await[row] for part in users if row in part.removals_await]
        needs = frozenset((NODE_KNOWN, *awaited, *(need for part in users for need in part.needs)))
        found.append(Table(row, _Lazy(make), removal_needs=needs))
    needs = frozenset((NODE_KNOWN, *(need for part in parts for need in part.needs)))
    former: dict[type[Row], DriverMaker] = {
        FormerChain: lambda: FormerChainDriver(xtables.other(), families, prefixes),
        FormerHook: lambda: FormerHookDriver(xtables.other(), families, ranks),
    }
    if config.firewall is not None:
        # What the other backend of the firewall has left behind.
        former |= _former_backend(config.firewall, families, xtables)
    return found + [Table(row, _Lazy(make), removal_needs=needs) for row, make in former.items()]


def _former_backend(
    settings: FirewallSettings, families: tuple[Family, ...], xtables: XtablesChoice
) -> dict[type[Row], DriverMaker]:
    if not settings.nftables:
        return {FormerTable: lambda: nft.FormerTableDriver(nft.Nftables())}
    return {
        FormerIptables: lambda: FormerIptablesDriver(
            (xtables.get, xtables.other), families, FIREWALL_CHAINS, (HookRank.POLICY,), FIREWALL_SETS
        )
    }


class _Once:
    """Something that several drivers share, made at its first use."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def get(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made


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


def _register(part: Part, compilers: Collection[tuple[str, Any]], settings: object) -> None:
    part.compilers = [Registered(name, part.name, compile_, settings, part.needs) for name, compile_ in compilers]


def _proxy(settings: ProxySettings) -> Part:
    part = Part("service-proxy")
    part.watched = ("nodes", "services", "endpointslices")
    part.needs = frozenset((*part.watched, "interfaces"))
    part.dependents = [services]
    _register(part, SERVICE_COMPILERS, settings)
    part.drivers = {
        **dict.fromkeys((Sysctl, IpSet, Member, Chain, Hook, Link), _shared),
        VirtualService: VirtualServiceDriver,
        Destination: DestinationDriver,
        Address: lambda: AddressDriver((DUMMY_LINK,)),
    }
    part.chain_prefixes = (SERVICES_CHAIN, SNAT_CHAIN)
    part.hooks = (HookRank.SERVICES, HookRank.MASQUERADE)
    part.sets = (SERVICE_ADDRESS_SET, LOCAL_ADDRESS_SET)
    part.links = (DUMMY_LINK,)
    part.audits = [(settings.sync_period, tuple(part.drivers))]
    return part


def _router(settings: RouterSettings) -> Part:
    # gRPC is heavy, and only this controller speaks it.
    from kuberouter.drivers import bgp as drivers
    from kuberouter.sources.learned import LearnedSource
    from kuberouter.wire.gobgp.client import Connection, Gobgp
    from kuberouter.wire.gobgp.v3 import V3

    gobgp = Gobgp(V3(Connection(f"unix://{settings.gobgp_socket}")))
    part = Part("router")
    part.watched = ("nodes",)
    # What is learned is no condition for a start: gobgpd learns nothing before it is told who it is.
    part.needs = frozenset((*part.watched, "interfaces"))
    part.dependents = [routing]
    part.sources = [LearnedSource(gobgp)]
    _register(part, ROUTING_COMPILERS, settings)
    tables = (TABLE_MAIN, TUNNEL_TABLE)
    part.drivers = {
        **dict.fromkeys((Sysctl, IpSet, Member, Hook, Link), _shared),
        Route: lambda: RouteDriver(tables),
        PolicyRule: lambda: PolicyRuleDriver((TUNNEL_TABLE,)),
        bgp.Speaker: lambda: drivers.SpeakerDriver(gobgp),
        bgp.DefinedSet: lambda: drivers.DefinedSetDriver(gobgp, BGP_SETS),
        bgp.PrefixSetEntry: lambda: drivers.PrefixEntryDriver(gobgp, BGP_SETS),
        bgp.NeighborSetEntry: lambda: drivers.NeighborEntryDriver(gobgp, BGP_SETS),
        bgp.Statement: lambda: drivers.StatementDriver(gobgp, BGP_SETS),
        bgp.Policy: lambda: drivers.PolicyDriver(gobgp, POLICY_PREFIX),
        bgp.PolicyAssignment: lambda: drivers.AssignmentDriver(gobgp),
        bgp.Peer: lambda: drivers.PeerDriver(gobgp),
        bgp.Path: lambda: drivers.PathDriver(gobgp),
    }
    if settings.cni:
        part.drivers[CniSettings] = lambda: CniDriver((settings.cni_file,))
    part.removals_await = dict.fromkeys((Link, Route), "learned")
    part.hooks = (HookRank.FORWARD, HookRank.EGRESS)
    part.sets = (POD_SUBNET_SET, NODE_ADDRESS_SET)
    part.links = (BRIDGE_LINK,)
    part.link_prefixes = (TUNNEL_PREFIX,)
    kernel = (Link, Route, PolicyRule)
    others = tuple(row for row in part.drivers if row not in kernel)
    part.audits = [(settings.route_sync_period, kernel), (settings.sync_period, others)]
    return part


def _firewall(settings: FirewallSettings) -> Part:
    part = Part("firewall")
    needed = ("nodes", "namespaces", "pods", "networkpolicies")
    # Services only widen what a pod may reach; whoever does not grant them gets policy all the same.
    part.watched = (*needed, "services")
    part.needs = frozenset((*needed, "interfaces", "podlinks"))
    part.dependents = [policies]
    part.sources = [PodLinkSource()]
    if settings.nftables:
        _register(part, NFTABLES, settings)
        kernel = _Once(nft.Nftables)
        part.drivers = {
            Sysctl: _shared,
            NftTable: lambda: nft.TableDriver(kernel.get()),
            NftSet: lambda: nft.SetDriver(kernel.get()),
            NftElement: lambda: nft.ElementDriver(kernel.get()),
            NftChain: lambda: nft.ChainDriver(kernel.get()),
            NftVerdict: lambda: nft.VerdictDriver(kernel.get()),
        }
    else:
        _register(part, IPTABLES, settings)
        part.drivers = dict.fromkeys((Sysctl, IpSet, Member, Chain, Hook), _shared)
        part.chain_prefixes = FIREWALL_CHAINS
        part.hooks = (HookRank.POLICY,)
        part.sets = FIREWALL_SETS
    part.audits = [(settings.sync_period, tuple(part.drivers))]
    return part


def _shared() -> Any:
    raise AssertionError("the table is shared; its driver is made in _tables")
