"""The route controller in a big cluster: one node's change among a thousand, and what it all takes in memory."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.network import RouteDriver
from kuberouter.model.core import ObjectRef, Row, Unavailable
from kuberouter.model.events import Deleted
from kuberouter.model.netfilter import IpSet, Member
from kuberouter.model.network import Route
from kuberouter.wire.gobgp.client import BestPath, Connection
from kuberouter.wire.gobgp.gobgpd import Gobgp
from tests.bench.routing_kernel import TABLES, Figure, Router, host, prefix
from tests.bench.yardstick import TimedSocket, absolute, quiet_collector
from tests.support import bgp as support
from tests.support.lab import netns
from tests.support.world import node_bytes

OWN = "198.19.255.1"
"""The highest address, so that all others call and gobgpd calls nobody."""
MANY, FEW = 1000, 100
TURNS = 21
NODES, LEARNED = 5000, 10_000
BUDGET = 40.0
"""Megabytes."""


def address(number: int) -> str:
    """The address of the number-th node."""
    return f"198.18.{number >> 8}.{number & 255}"


def cidr(number: int) -> str:
    """Its pod CIDR."""
    return f"10.{number >> 8}.{number & 255}.0/24"


def node(number: int, where: str = "", pods: str = "") -> bytes:
    """The number-th node, perhaps with another address or pod CIDR."""
    return node_bytes(f"n{number}", where or address(number), pods or cidr(number))


def path(pods: str, via: str = "") -> BestPath:
    """The best path to a pod CIDR; without a next hop it is gone."""
    return BestPath(prefix(pods), ip_address(via).packed if via else b"", own=False)


def measure(dump: bytes) -> list[Figure]:
    """Changes and memory. `dump` is a message of gobgpd's watch with many learned paths."""
    return [*_changes(), *_memory(dump)]


# --- one node's change -----------------------------------------------------------------------------------------------


class Crowd:
    """A node among many: its routes and sets in a real kernel, the rest in a real gobgpd."""

    def __init__(self, station: support.Station, nodes: int) -> None:
        netns.configure(station.namespace, f"addr add {OWN}/15 dev eth0")
        self.gobgp = Gobgp(Connection(f"unix://{station.socket}"))
        support.wait(self._answers, 5, "gobgpd")
        with netns.inside(station.namespace):
            kernel = (MemberDriver(lambda _: True), RouteDriver(TABLES))
            drivers: dict[type[Row], Any] = {
                **support.bgp_drivers(self.gobgp),
                IpSet: SetDriver(lambda _: True),
                Member: kernel[0],
                Route: kernel[1],
            }
            self.router = Router(drivers, f"{OWN}/15")
        self.sockets = [_timed(kernel[0]), _timed(kernel[1].wire)]
        for number in range(nodes):
            self.router.feed(node(number))
        self.router.learn([path(cidr(number), address(number)) for number in range(nodes)])
        self.router.settle()
        # The daemon forgets what it wrote in a turn with the next.
        assert self.router.settle() == 0

    def _answers(self) -> bool:
        try:
            self.gobgp.api.speaker()
        except Unavailable:
            return False
        return True

    def kernel(self) -> float:
        """Seconds that the kernel took for our messages so far."""
        return sum(socket.spent for socket in self.sockets)

    def measure(self, label: str, turns: tuple[Turn, Turn]) -> tuple[float, int]:
        """Milliseconds of our time for a change, and how many rows it and the change back wrote, each time as many."""
        written: list[int] = []

        def there_and_back(_: int) -> None:
            rows = 0
            for turn in turns:
                turn(self.router)
                rows += self.router.settle()
            written.append(rows)

        with quiet_collector():
            took = absolute(f"{label}, there and back", there_and_back, range(TURNS), self.kernel)
        assert len(set(written)) == 1, written
        return took / 2, written[0]


def _timed(wire: Any) -> TimedSocket:
    """Have the sends of what lies under a driver timed."""
    while hasattr(wire, "_wire"):
        wire = wire._wire
    timed = wire._socket = TimedSocket(wire._socket)
    return timed


Turn = Callable[[Router], None]


def _pods(number: int, old: str, new: str) -> Turn:
    def turn(router: Router) -> None:
        router.feed(node(number, pods=new))
        router.learn([path(old), path(new, address(number))])

    return turn


def _address(number: int, new: str) -> Turn:
    def turn(router: Router) -> None:
        router.feed(node(number, where=new))
        router.learn([path(cidr(number), new)])

    return turn


def _comes(number: int) -> Turn:
    def turn(router: Router) -> None:
        router.feed(node(number))
        router.learn([path(cidr(number), address(number))])

    return turn


def _goes(number: int) -> Turn:
    def turn(router: Router) -> None:
        router.put(Deleted(ObjectRef("Node", "", f"n{number}")))
        router.learn([path(cidr(number))])

    return turn


KINDS: dict[str, tuple[Turn, Turn]] = {
    "pods": (_pods(7, cidr(7), "10.200.7.0/24"), _pods(7, "10.200.7.0/24", cidr(7))),
    "address": (_address(8, "198.18.200.8"), _address(8, address(8))),
    "gone": (_goes(9), _comes(9)),
}
"""Changes, each with the one that takes it back."""


def _changes() -> list[Figure]:
    took: dict[int, dict[str, tuple[float, int]]] = {}
    for nodes in (FEW, MANY):
        with tempfile.TemporaryDirectory(prefix="bench-") as home, support.Wire(Path(home)) as wire:
            crowd = Crowd(wire.station("a", "192.0.2.1"), nodes)
            took[nodes] = {kind: crowd.measure(f"node-{kind}-{nodes}", turns) for kind, turns in KINDS.items()}
            unread = node(5).replace(b'"metadata": {', b'"metadata": {"annotations": {"seen": "9"}, ')
            assert unread != node(5)
            crowd.router.feed(unread)
            silent = crowd.router.settle()
    more = sum(took[MANY][kind][1] - took[FEW][kind][1] for kind in KINDS)
    flat = statistics.median(took[MANY][kind][0] / took[FEW][kind][0] for kind in KINDS)
    return [
        *((f"routing-node-{kind}-{MANY}", took[MANY][kind][0], 3.0, "ms") for kind in KINDS),
        ("routing-node-flat", flat, 1.5, "ratio"),
        (f"routing-node-more-writes-{MANY}", float(more), 0.0, " writes"),
        ("routing-silent-events", float(silent), 0.0, " writes"),
    ]


# --- memory, in a process of its own ---------------------------------------------------------------------------------


def _memory(dump: bytes) -> list[Figure]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(dump)
        file.flush()
        words = [sys.executable, "-m", "tests.bench.routing_nodes", file.name]
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
    comment, last = said.splitlines()
    print(comment, flush=True)
    return [("routing-memory", float(last), BUDGET, "MB")]


def measure_memory(dump: bytes) -> float:
    """Resident megabytes that nodes and learned routes add to a process which knows nothing but its node."""
    with host():
        router = Router({Route: RouteDriver(TABLES)})
        router.hear(b"")
        gc.collect()
        idle = _resident()
        for number in range(NODES):
            router.feed(node(number))
            if number % 500 == 499:
                router.settle()
        router.hear(dump)
        for _ in range(2):
            # What an audit keeps for the next counts.
            router.dataplane.resync((Route,))
            assert router.settle() == 0
    assert len(router.planner.ledgers[Route].desired) == LEARNED
    gc.collect()
    full = _resident()
    print(f"# routing-memory: idle {idle:.1f} MB, with {NODES} nodes and {LEARNED} routes {full:.1f} MB", flush=True)
    return full - idle


def _resident() -> float:
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Rss:")) * 1024 / 1e6


if __name__ == "__main__":
    print(measure_memory(Path(sys.argv[1]).read_bytes()))
