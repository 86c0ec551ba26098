"""Learned routes on their way into the kernel, and the audit of those that are there.

Both sides of these ratios are processor time, the kernel's included. Neither has anything to wait for, so with an idle
machine the clock tells the same; with a busy one it favours whoever has just been started, which is the tool.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from kuberouter.cluster.dependents import routing
from kuberouter.compilers.names import TUNNEL_TABLE
from kuberouter.compilers.routing import COMPILERS
from kuberouter.drivers.network import RouteDriver
from kuberouter.engine.inbox import Inbox
from kuberouter.model import bgp
from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import Batch, ObjectRef, Prefix, Row
from kuberouter.model.events import Upserted
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.netfilter import Hook, IpSet, Member
from kuberouter.model.network import TABLE_MAIN, FouPort, Link, PolicyRule, Route, RouteKey
from kuberouter.model.settings import RouterSettings
from kuberouter.sources.learned import LearnedSource
from kuberouter.wire.gobgp.calls import BestPaths
from kuberouter.wire.gobgp.client import BestPath, Connection
from kuberouter.wire.gobgp.gobgpd import Gobgp
from kuberouter.wire.gobgp.v3 import CodecV3
from tests.bench.firewall_node import Nowhere
from tests.bench.yardstick import fresh_namespace, quiet_collector, ratio, tool
from tests.support.lab import netns
from tests.support.world import World, node_bytes

RUNS = 15
COUNT = 10_000
NEIGHBOURS = 50
"""Next hops. The kernel looks through all that a link has for each route, which takes longer than the rest when there
are hundreds of them."""
Figure = tuple[str, float, float, str]
"""Name, value, target, unit."""
ROWS: tuple[type[Row], ...] = (
    *(Sysctl, IpSet, Member, Hook, FouPort, Link, Route, PolicyRule, CniSettings),
    *bgp.TABLES,
)
TABLES = (TABLE_MAIN, TUNNEL_TABLE)


def prefixes(count: int = COUNT) -> list[str]:
    """So many pod CIDRs."""
    return [f"10.{n >> 8}.{n & 255}.0/24" for n in range(count)]


def neighbour(number: int) -> str:
    """The next hop of the number-th of them."""
    return f"192.0.2.{2 + number % NEIGHBOURS}"


def prefix(text: str) -> Prefix:
    """A prefix from its text."""
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


class Router(World):
    """A node's route controller. Tables of which `drivers` says nothing are nowhere."""

    def __init__(self, drivers: dict[type[Row], Any], own: str = "192.0.2.1/24") -> None:
        """`own` is the node's address with the length of its subnet."""
        everywhere = {**dict.fromkeys(ROWS, Nowhere()), **drivers}
        super().__init__([routing], COMPILERS, RouterSettings(), ROWS, drivers=everywhere)
        here = ip_interface(own)
        address = InterfaceAddress(here.packed, here.network.prefixlen)
        self.put(Upserted(Interface(ObjectRef("Interface", "", "up0"), 2, 1500, (address,))))
        self.feed(node_bytes(address=str(here.ip), cidr="172.16.1.0/24"))
        self.sync()
        self.inbox = Inbox()
        self.source = LearnedSource(Gobgp(Connection("unix:///nowhere")))

    def know(self, count: int = NEIGHBOURS) -> None:
        """Learn of the neighbours, which are nodes."""
        for n in range(count):
            self.feed(node_bytes(f"n{n}", neighbour(n), f"172.17.{n}.0/24"))
        self.settle()

    def hear(self, dump: bytes) -> int:
        """Work off a message of gobgpd's watch; how many rows were written."""
        for found in BestPaths([watched(dump)], CodecV3()):  # type: ignore[arg-type]  # a list is a stream that ends
            self.learn(found)
        return self.settle()

    def learn(self, paths: Sequence[BestPath]) -> None:
        """Keep what gobgpd tells for the next pass."""
        self.source._take(paths, self.inbox)
        for event in self.inbox.take(0.0, 0.0):
            self.put(event)

    def settle(self) -> int:
        """Work off everything; how many rows were written."""
        written = self.sync()
        assert not self.report.failed, list(self.report.failed.items())[:3]
        assert not self.report.errors, self.report.errors
        return written


def watched(dump: bytes) -> Any:
    """A message of gobgpd's watch."""
    return CodecV3().pb.WatchEventResponse.FromString(dump)


@contextmanager
def host() -> Iterator[str]:
    """A fresh namespace of a host with one link."""
    with fresh_namespace() as name:
        netns.configure(name, "link add up0 type bridge", "addr add 192.0.2.1/24 dev up0", "link set up0 up")
        yield name


@contextmanager
def processor() -> Iterator[Callable[[], float]]:
    """The seconds that this process and those that it has waited for run from the start of a block to its end."""
    began = _spent()
    ended: list[float] = []
    yield lambda: ended[0] - began
    ended.append(_spent())


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def spent_by(words: Sequence[str], text: str = "") -> float:
    """The seconds that a tool runs, its start by us included."""
    with processor() as seconds:
        tool(words, text)
    return seconds()


def on_host(measure: Callable[[], float]) -> Callable[[], float]:
    """The same measurement, each time on a host of its own."""

    def fresh() -> float:
        with host(), quiet_collector():
            return measure()

    return fresh


def measure(dump: bytes) -> list[Figure]:
    """`dump` is the first message of gobgpd's watch, with all of `prefixes()` by way of the neighbours."""
    lines = [f"route replace {text} via {neighbour(n)} proto 17" for n, text in enumerate(prefixes())]
    text = "\n".join([*lines, ""])
    rows = tuple(
        Route(RouteKey(TABLE_MAIN, prefix(each)), (ip_address(neighbour(n)).packed,))
        for n, each in enumerate(prefixes())
    )

    def by_ip() -> float:
        return spent_by(["ip", "-batch", "-"], text)

    def from_batch() -> float:
        driver = RouteDriver(TABLES)
        with processor() as seconds:
            failed = driver.write(Batch(rows)).failed
        assert not failed, list(failed.items())[:3]
        return seconds()

    def from_dump() -> float:
        router = Router({Route: RouteDriver(TABLES)})
        router.know()
        with processor() as seconds:
            written = router.hear(dump)
        assert written == COUNT, written
        return seconds()

    return [
        ("routing-routes-10k", ratio("routes-10k", on_host(from_batch), on_host(by_ip), RUNS), 0.4, "ratio"),
        ("routing-learned-10k", ratio("learned-10k", on_host(from_dump), on_host(by_ip), RUNS), 2.5, "ratio"),
        ("routing-audit-10k", _audit(dump), 1.5, "ratio"),
    ]


def _audit(dump: bytes) -> float:
    """Reading the routes back, and finding nothing to do, beside printing them."""
    with host():
        router = Router({Route: RouteDriver(TABLES)})
        router.know()
        router.hear(dump)
        router.sync()

        def ours() -> float:
            with processor() as seconds:
                router.dataplane.resync((Route,))
                written = router.sync()
            assert written == 0, written
            assert router.report.read == {Route}
            assert not router.report.drift[Route]
            return seconds()

        def shown() -> float:
            return spent_by(["ip", "route", "show", "proto", "17"])

        with quiet_collector():
            # The first audit after a start sees what was written for the first time, and the daemon does it once.
            ours()
            return ratio("audit-10k", ours, shown, 2 * RUNS)
