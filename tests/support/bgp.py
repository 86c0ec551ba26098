"""Nodes with a real gobgpd each, in network namespaces on one wire, and the route controller's half of the engine.

Kernel tables are in memory; everything that concerns BGP is real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec import structs

from kuberouter.cluster.dependents import routing
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.names import BGP_SETS, IMPORT_SETS, POLICY_PREFIX
from kuberouter.compilers.routing import COMPILERS, OF_ANNOTATIONS
from kuberouter.daemon.parts.part import Part, register
from kuberouter.decode.node import decode_node
from kuberouter.drivers import bgp as drivers
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner
from kuberouter.model import bgp
from kuberouter.model.cluster import ClusterObject, Node
from kuberouter.model.core import Family, ObjectRef, Prefix, Row, Unavailable
from kuberouter.model.events import ANNOTATIONS, Deleted, Upserted
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.netfilter import Hook, IpSet, Member
from kuberouter.model.network import TABLE_MAIN, FouPort, Link, PolicyRule, Route, RouteKey
from kuberouter.model.settings import NodeSettings, RouterSettings
from kuberouter.sources.learned import LearnedSource
from kuberouter.wire.gobgp.client import Connection
from kuberouter.wire.gobgp.gobgpd import Gobgp
from kuberouter.wire.gobgp.v3 import V3
from tests.support import gobgpd as programs
from tests.support.lab import netns
from tests.support.lab.process import Child

ROOT = Path(__file__).resolve().parents[2]
KERNEL_ROWS: tuple[type[Row], ...] = (Sysctl, IpSet, Member, Hook, FouPort, Link, Route, PolicyRule, CniSettings)


def prefix(text: str) -> Prefix:
    """A prefix from its text."""
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def node(name: str, addresses: Iterable[str], pod_cidrs: Iterable[str]) -> Node:
    """A Node object."""
    return Node(
        ObjectRef("Node", "", name),
        internal_addresses=tuple(ip_address(a).packed for a in addresses),
        spec_pod_cidrs=tuple(prefix(c) for c in pod_cidrs),
    )


def annotated(name: str, address: str, cidr: str, **annotations: str) -> Node:
    """A Node object as the API tells of it, with annotations by their names without `kube-router.io/`, `_` for `.`."""
    texts = {f"kube-router.io/{key.replace('__', '-').replace('_', '.')}": text for key, text in annotations.items()}
    raw = {
        "metadata": {"name": name, "annotations": texts},
        "spec": {"podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }
    found, _ = decode_node(json.dumps(raw).encode())
    assert found is not None
    return found


def bgp_drivers(gobgp: Gobgp) -> dict[type[Row], Any]:
    """The drivers of all BGP tables."""
    return {
        bgp.Speaker: drivers.SpeakerDriver(gobgp),
        bgp.DefinedSet: drivers.DefinedSetDriver(gobgp, BGP_SETS),
        bgp.PrefixSetEntry: drivers.PrefixEntryDriver(gobgp, BGP_SETS, imports=IMPORT_SETS),
        bgp.NeighborSetEntry: drivers.NeighborEntryDriver(gobgp, BGP_SETS),
        bgp.Statement: drivers.StatementDriver(gobgp, BGP_SETS),
        bgp.Policy: drivers.PolicyDriver(gobgp, POLICY_PREFIX),
        bgp.PolicyAssignment: drivers.AssignmentDriver(gobgp),
        bgp.Peer: drivers.PeerDriver(gobgp),
        bgp.Path: drivers.PathDriver(gobgp),
    }


class Daemon:
    """The route controller of one node, without its kernel half, on threads of its own."""

    def __init__(self, name: str, socket: Path, settings: RouterSettings, families: tuple[Family, ...]) -> None:
        self.gobgp = Gobgp(Connection(f"unix://{socket}"))
        self.inbox = Inbox()
        self.source = LearnedSource(self.gobgp, bound=15.0)
        self.drivers = {**bgp_drivers(self.gobgp), **{row: MemoryDriver[Any]() for row in KERNEL_ROWS}}
        self._readers = bgp_drivers(self.gobgp)
        self.reports: list[Report] = []
        part = Part("router")
        register(part, COMPILERS, settings, besides=dict.fromkeys(OF_ANNOTATIONS, ANNOTATIONS))
        self.planner = Planner(
            Cluster(NodeSettings(name, families), [routing]), part.compilers, list(self.drivers), Journal()
        )
        awaited: dict[type[Row], tuple[str, ...]] = {Route: ("learned",), Link: ("learned",)}
        awaited |= dict.fromkeys(bgp.TABLES, (ANNOTATIONS,))
        tables = [Table(row, d, removal_needs=awaited.get(row, ())) for row, d in self.drivers.items()]
        self.engine = Engine(
            self.inbox,
            self.planner,
            Dataplane(tables, self.planner.ledgers),
            [Controller("router", frozenset(), tuple(self.drivers))],
            clock=time.monotonic,
            observe=lambda report: self.reports.append(report) if report.batches else None,
        )
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.source.run, args=(self.inbox, self._stop), daemon=True),
            threading.Thread(target=self.engine.run, args=(self._stop,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, *objects: ClusterObject) -> None:
        """Tell of objects."""
        for each in objects:
            self.inbox.put(Upserted(each))

    def delete(self, name: str, *, kind: str = "Node", namespace: str = "") -> None:
        """Tell that an object is gone."""
        self.inbox.put(Deleted(ObjectRef(kind, namespace, name)))

    def route(self, destination: str) -> Route | None:
        """The route to a prefix in the memory kernel's main table."""
        found: Route | None = self.drivers[Route].rows.get(RouteKey(TABLE_MAIN, prefix(destination)))
        return found

    def failed(self, row: type[Row]) -> bool:
        """Whether a row of a table was refused."""
        return any(table is row for report in self.reports for table, _ in report.failed)

    def told(self) -> bool:
        """Whether gobgpd holds exactly what is desired, in every table, but for BFD where it has none."""
        try:
            return all(
                {row.key: row for row in driver.read() if driver.owns(row)} == self._wanted(table)
                for table, driver in self._readers.items()
            )
        except Unavailable:
            return False

    def _wanted(self, table: type[Row]) -> dict[Hashable, Row]:
        wanted = dict(self.planner.ledgers[table].desired)
        if table is bgp.Peer and self.gobgp.api.no_bfd:
            return {key: structs.replace(row, bfd=None) for key, row in wanted.items()}
        return wanted

    def stop(self) -> None:
        """Stop the threads; gobgpd goes on."""
        self._stop.set()
        self.inbox.wake()
        for thread in self._threads:
            thread.join(10)


class Station:
    """A namespace with a gobgpd in it."""

    def __init__(self, name: str, wire: str, address: str, home: Path, *, program: str) -> None:
        """`program` is the gobgpd to run."""
        self.name = name
        self.program = program
        self.address = address
        self.home = home
        self.socket = home / "run" / "gobgp.sock"
        self.namespace = f"{wire}-{name}"
        self.gobgpd: Child | None = None
        self._wire = wire
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def build(self) -> None:
        """Make the namespace and plug it in."""
        name, wire = self.name, self._wire
        netns.add(self.namespace)
        netns.configure(wire, f"link add to-{name} type veth peer name eth0 netns {self.namespace}")
        netns.configure(wire, f"link set to-{name} master br0", f"link set to-{name} up")
        netns.configure(self.namespace, f"addr add {self.address}/24 dev eth0", "link set eth0 up")

    def start(self, *arguments: str) -> None:
        """Start gobgpd by its real command line."""
        sidecar = [sys.executable, str(ROOT / "cmd" / "gobgpd-sidecar"), f"--gobgp-socket={self.socket}"]
        words = ["ip", "netns", "exec", self.namespace, *sidecar, f"--gobgpd={self.program}", *arguments]
        self.gobgpd = Child(words, self.home / "gobgpd.log", {"PATH": os.environ["PATH"]})

    def keep(self) -> None:
        """From now on start gobgpd again when it ends as one does that was asked to, as a container runtime would."""
        if not self._keeper.is_alive():
            self._keeper.start()

    def _keep(self) -> None:
        while not self._closed.wait(0.05):
            child = self.gobgpd
            if child is not None and child.returncode() == 0:
                self.start()

    def close(self) -> None:
        """End what runs and remove the namespace."""
        self._closed.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.kill()
        netns.remove(self.namespace)

    def kill(self) -> None:
        """End gobgpd as a crash does."""
        if self.gobgpd is not None:
            self.gobgpd.stop(signal.SIGKILL)
            self.gobgpd = None


class Router:
    """A router outside the cluster: a gobgpd 3 that hears from the test alone, and takes and tells everything."""

    def __init__(self, station: Station, asn: int, *peers: bgp.Peer) -> None:
        self.station = station
        self._asn = asn
        self._peers = peers
        self.api = V3(Connection(f"unix://{station.socket}"))
        wait(self._answers, 5, "gobgpd")
        own = ip_address(station.address).packed
        self.api.start(bgp.Speaker(bgp.SpeakerKey(), asn, own, addresses=(own,)))
        for peer in peers:
            # It takes calls at any time, as routers do; two of GoBGP that both dial miss each other for a while.
            self.api.add_peer(structs.replace(peer, passive=True))

    def _answers(self) -> bool:
        try:
            return self.api.speaker() is None
        except Unavailable:
            return False

    def tell(self, *prefixes: str, withdraw: bool = False) -> None:
        """Announce prefixes, or withdraw them."""
        own = ip_address(self.station.address).packed
        paths = [bgp.Path(bgp.PathKey(prefix(text)), own) for text in prefixes]
        self.api.originate((), paths) if withdraw else self.api.originate(paths, ())

    def knows(self) -> dict[str, dict[str, Any]]:
        """What it has heard: per prefix the attributes of the best path, by GoBGP's names for them."""
        words = ["gobgp", "--target", f"unix://{self.station.socket}", "global", "rib", "-j"]
        found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout or "{}")
        return {
            text: {key: value for attribute in paths[0]["attrs"] for key, value in attribute.items() if key != "type"}
            for text, paths in found.items()
        }

    def established(self) -> bool:
        """Whether all its sessions stand."""
        sessions = self.api.sessions()
        return sessions.configured == sessions.established


class Wire:
    """Stations on one wire, with daemons; a context manager that takes all of it down."""

    def __init__(self, home: Path, gobgpd: str = programs.V3) -> None:
        """`gobgpd` is the program that stations run unless another is named."""
        self.name = netns.unique_prefix()
        self.home = home
        self.gobgpd = gobgpd
        self.stations: list[Station] = []
        self.daemons: list[Daemon] = []

    def __enter__(self) -> Wire:
        netns.add(self.name)
        netns.configure(self.name, "link add br0 type bridge", "link set br0 up")
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for daemon in self.daemons:
            daemon.stop()
        for station in self.stations:
            station.close()
        netns.remove(self.name)

    def station(self, name: str, address: str, program: str = "") -> Station:
        """A new station with a running gobgpd."""
        home = self.home / name
        home.mkdir(parents=True)
        station = Station(name, self.name, address, home, program=program or self.gobgpd)
        self.stations.append(station)
        station.build()
        station.start()
        return station

    def daemon(
        self,
        station: Station,
        settings: RouterSettings | None = None,
        families: tuple[Family, ...] = (Family.IPV4,),
    ) -> Daemon:
        """The route controller of a station, whose gobgpd has somebody now who starts it again."""
        station.keep()
        daemon = Daemon(station.name, station.socket, settings or RouterSettings(), families)
        self.daemons.append(daemon)
        return daemon


def wait(condition: Callable[[], bool], bound: float, what: str) -> float:
    """Wait until a condition holds; seconds that it took. Raises TimeoutError."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > bound:
            raise TimeoutError(f"no {what} within {bound:g} s")
        time.sleep(0.1)
    return time.monotonic() - started
