"""A node in memory: bytes in, rows of every table out, through the real decode, cluster, compilers and engine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kuberouter.cluster.dependents import Dependents, services
from kuberouter.cluster.derived import Derive
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.services import COMPILERS
from kuberouter.decode import DECODERS
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.departures import INHERITED, Departures
from kuberouter.engine.journal import Journal
from kuberouter.engine.planner import Planner, Registered
from kuberouter.model.core import Family, Row
from kuberouter.model.events import Event, Rejected, Upserted
from kuberouter.model.host import HealthPort, Sysctl
from kuberouter.model.ipvs import Destination, IpvsTimeout, VirtualService
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member, Rule
from kuberouter.model.network import Address, BridgePort, Link, LocalRoute
from kuberouter.model.receivers import PodReceiver
from kuberouter.model.settings import NodeSettings, ProxySettings

ROWS: tuple[type[Row], ...] = (
    Sysctl,
    IpvsTimeout,
    IpSet,
    Member,
    Chain,
    Hook,
    Link,
    BridgePort,
    VirtualService,
    Destination,
    Address,
    LocalRoute,
    HealthPort,
    PodReceiver,
)
NODE = "node-1"
_KIND = re.compile(rf'"kind": "({"|".join(DECODERS)})"'.encode())


def node_bytes(name: str = NODE, address: str = "192.0.2.1", cidr: str = "10.244.1.0/24") -> bytes:
    """A Node with one address and one pod CIDR."""
    return json.dumps(
        {
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }
    ).encode()


def kind_of(raw: bytes) -> str:
    """The kind that an object says it is, which a watch knows before it has the bytes."""
    found = _KIND.search(raw)
    assert found is not None, raw[:200]
    return found[1].decode()


class World:
    """Planner and dataplane over memory drivers, or over those given."""

    def __init__(
        self,
        dependents: Sequence[Dependents],
        compilers: Sequence[tuple[str, Any]],
        settings: object,
        rows: Sequence[type[Row]] = ROWS,
        families: tuple[Family, ...] = (Family.IPV4,),
        *,
        drivers: Mapping[type[Row], Any] | None = None,
        derive: Sequence[Derive] = (),
        node: str = NODE,
        departures: Departures | None = None,
        needs: Sequence[str] = (),
    ) -> None:
        """`needs` are sources that must be in sync before anything is compiled."""
        self.journal = Journal()
        registered = [Registered(name, "test", compile_, settings, needs) for name, compile_ in compilers]
        cluster = Cluster(NodeSettings(node, families), dependents, derive, graces=departures is not None)
        self.planner = Planner(cluster, registered, [*rows, Rule], self.journal, history=departures)
        self.drivers: Mapping[type[Row], Any] = drivers or {row: MemoryDriver() for row in rows}
        tables = {row: Table(row, driver) for row, driver in self.drivers.items()}
        if departures is not None:
            driver = self.drivers[Destination]
            tables[Destination] = Table(Destination, driver, removal_needs=(INHERITED,), inherit=departures.inherit)
        self.dataplane = Dataplane(tables.values(), self.planner.ledgers)
        self.now = 0.0
        """Seconds on the engine's clock."""
        self.report = Report()
        """What the last `sync` wrote."""
        self._events: list[Event] = []

    def feed(self, raw: bytes, kind: str = "") -> None:
        """Decode one object, of which a watch knows the `kind`, and keep the event for the next `sync`."""
        obj, problems = DECODERS[kind or kind_of(raw)](raw)
        if problems:
            self._events.append(Rejected(problems[0].owner, problems))
        if obj is not None:
            self._events.append(Upserted(obj))

    def put(self, event: Event) -> None:
        """Keep an event for the next `sync`."""
        self._events.append(event)

    def sync(self) -> int:
        """Work off everything; returns the number of rows written."""
        changes = self.planner.step(self._events, limit=10_000_000, now=self.now)
        self._events.clear()
        self.report = self.dataplane.converge(changes, synced=self.planner.synced, now=self.now)
        return self.report.writes

    def table(self, row: type[Row]) -> dict[Any, Any]:
        """What the memory kernel holds of one table."""
        rows: dict[Any, Any] = self.drivers[row].rows
        return rows


class ProxyWorld(World):
    """The service proxy's half of a node."""

    def __init__(
        self,
        settings: ProxySettings | None = None,
        families: tuple[Family, ...] = (Family.IPV4,),
        *,
        node: bytes = b"",
        drivers: Mapping[type[Row], Any] | None = None,
        start: bool = True,
        needs: Sequence[str] = (),
    ) -> None:
        settings = settings or ProxySettings()
        self.departures = Departures(settings.graceful_period, needs) if settings.graceful else None
        super().__init__(
            [services], COMPILERS, settings, families=families, drivers=drivers, departures=self.departures, needs=needs
        )
        self.feed(node or node_bytes())
        if start:
            self.sync()

    def destinations(self) -> int:
        """Number of IPVS destinations."""
        return len(self.table(Destination))
