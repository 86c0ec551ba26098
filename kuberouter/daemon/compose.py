"""The only file that names concrete sources, compilers and drivers: puts a node together from its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from kuberouter.cluster.dependents import Dependents, policies, services
from kuberouter.cluster.facts import ours
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.names import (
    DUMMY_LINK,
    LOCAL_ADDRESS_SET,
    SERVICE_ADDRESS_SET,
    SERVICES_CHAIN,
    SNAT_CHAIN,
)
from kuberouter.compilers.policies import COMPILERS as POLICY_COMPILERS
from kuberouter.compilers.services import COMPILERS as SERVICE_COMPILERS
from kuberouter.daemon.config import Config
from kuberouter.daemon.sinks import LogSink
from kuberouter.drivers.host import SysctlDriver
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Xtables, detect_variant
from kuberouter.drivers.ipvs import DestinationDriver, VirtualServiceDriver
from kuberouter.drivers.network import AddressDriver, LinkDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import NODE_KNOWN, Planner, Registered
from kuberouter.model.core import Row
from kuberouter.model.host import Sysctl
from kuberouter.model.ipvs import Destination, VirtualService
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member, Rule
from kuberouter.model.network import Address, Link
from kuberouter.model.ports import Source
from kuberouter.model.settings import FirewallSettings, ProxySettings
from kuberouter.sources.apiserver import RESOURCES, ApiSource
from kuberouter.sources.clock import ClockSource
from kuberouter.sources.hostnet import HostSource
from kuberouter.sources.manifests import ManifestSource
from kuberouter.wire.kubeapi import connect

DriverMaker = Callable[[], Any]


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
        self.chain_prefixes: tuple[str, ...] = ()
        self.sets: tuple[str, ...] = ()
        """Names or prefixes of its sets, without `inet6:`."""
        self.links: tuple[str, ...] = ()
        """Names of the links that it makes."""
        self.link_prefixes: tuple[str, ...] = ()
        self.audits: list[tuple[float, tuple[type[Row], ...]]] = []


class Composition:
    """A node, ready to run."""

    def __init__(self, engine: Engine, inbox: Inbox, sources: list[Source], parts: list[Part]) -> None:
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
    if config.firewall is not None:
        parts.append(_firewall(config.firewall))
    inbox = Inbox()
    journal = Journal((LogSink(),))
    sources = _api_sources(config, parts)
    sources.append(HostSource(ours))
    for part in parts:
        sources += part.sources
        sources += [ClockSource(f"{part.name} audit", period, tables) for period, tables in part.audits]
    tables = _tables(config, parts)
    rows = [table.row for table in tables]
    cluster = Cluster(config.node, [d for part in parts for d in part.dependents])
    planner = Planner(cluster, [c for part in parts for c in part.compilers], [*rows, Rule], journal)
    controllers = [Controller(p.name, p.needs | {NODE_KNOWN}, tuple(p.drivers)) for p in parts]
    engine = Engine(inbox, planner, Dataplane(tables, planner.ledgers), controllers, clock=time.monotonic)
    return Composition(engine, inbox, sources, parts)


def _api_sources(config: Config, parts: list[Part]) -> list[Source]:
    wanted = tuple(dict.fromkeys(name for part in parts for name in part.watched))
    if config.manifests:
        return [ManifestSource(Path(config.manifests), wanted)]
    api = connect(config.kubeconfig, config.master)
    return [ApiSource(api, RESOURCES[name]) for name in wanted]


def _tables(config: Config, parts: list[Part]) -> list[Table[Any]]:
    """One table per row type. Of a table that several controllers write, each one's sources guard the removals."""
    xtables = _LazyXtables()
    families = config.node.families
    prefixes = tuple(prefix for part in parts for prefix in part.chain_prefixes)
    sets = tuple(name for part in parts for name in part.sets)

    links = tuple(name for part in parts for name in part.links)
    link_prefixes = tuple(prefix for part in parts for prefix in part.link_prefixes)

    def owns_set(name: str) -> bool:
        return name.removeprefix("inet6:").startswith(sets)

    shared: dict[type[Row], DriverMaker] = {
        Sysctl: SysctlDriver,
        Link: lambda: LinkDriver(links, link_prefixes),
        IpSet: lambda: SetDriver(owns_set),
        Member: lambda: MemberDriver(owns_set),
        Chain: lambda: ChainDriver(xtables.get(), families, prefixes),
        Hook: lambda: HookDriver(xtables.get(), families),
    }
    found: list[Table[Any]] = []
    for row in dict.fromkeys(row for part in parts for row in part.drivers):
        users = [part for part in parts if row in part.drivers]
        make = shared.get(row) or users[0].drivers[row]
        needs = frozenset((NODE_KNOWN, *(need for part in users for need in part.needs)))
        found.append(Table(row, _Lazy(make), removal_needs=needs))
    return found


class _LazyXtables:
    """The iptables variant is found out when it is first needed, so that a missing tool is one table's trouble."""

    def __init__(self) -> None:
        self._found: Xtables | None = None

    def get(self) -> Xtables:
        if self._found is None:
            self._found = Xtables(detect_variant())
        return self._found


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
    part.sets = (SERVICE_ADDRESS_SET, LOCAL_ADDRESS_SET)
    part.links = (DUMMY_LINK,)
    part.audits = [(settings.sync_period, tuple(part.drivers))]
    return part


def _firewall(settings: FirewallSettings) -> Part:
    part = Part("firewall")
    part.watched = ("nodes", "namespaces", "pods", "networkpolicies")
    part.needs = frozenset((*part.watched, "interfaces"))
    part.dependents = [policies]
    _register(part, POLICY_COMPILERS, settings)
    tables = (Sysctl, IpSet, Member, Chain, Hook)
    part.drivers = dict.fromkeys(tables, _shared)
    part.chain_prefixes = (
        "KUBE-ROUTER-INPUT",
        "KUBE-ROUTER-FORWARD",
        "KUBE-ROUTER-OUTPUT",
        "KUBE-ROUTER-POD-",
        "KUBE-POD-FW-",
        "KUBE-NWPLCY-",
    )
    part.sets = ("KUBE-SRC-", "KUBE-DST-")
    part.audits = [(settings.sync_period, tables)]
    return part


def _shared() -> Any:
    raise AssertionError("the table is shared; its driver is made in _tables")
