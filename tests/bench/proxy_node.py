"""The node of the proxy bench: Services and endpoints from bytes to IPVS, or to a set that stands in for it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, NamedTuple

from kuberouter.decode import DECODERS
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.ipvs import DestinationDriver, VirtualServiceDriver
from kuberouter.drivers.ownership import Ownership
from kuberouter.model.core import Batch, Family, Outcome, Row
from kuberouter.model.events import Upserted
from kuberouter.model.ipvs import Destination, DestinationKey, VirtualService
from kuberouter.model.netfilter import IpSet, IpSetKey, Member, MemberKey, SetType
from kuberouter.wire.netlink import Message
from tests.bench.engine import pod_address, service_bytes, slice_bytes, vip
from tests.bench.firewall_node import Nowhere
from tests.bench.yardstick import quiet_collector, ratio, stopwatch
from tests.support.world import ROWS, ProxyWorld

ENDPOINTS = 10
IPVS: tuple[type[Row], ...] = (VirtualService, Destination)
BURST = 1000
CHANGES = 300
"""Single changes that percentiles are taken of."""
ROUNDS = 3
Figure = tuple[str, float, float, str]
"""Name, value, target, unit."""


def name(number: int) -> str:
    """Name of the number-th Service."""
    return f"s{number}"


def service(number: int) -> bytes:
    """The number-th Service."""
    return service_bytes(name(number), vip(number + 1))


def endpoints(number: int, *, replaced: int = 0) -> bytes:
    """The endpoints of the number-th Service, the last `replaced` of them by others."""
    kept = [pod_address(number * ENDPOINTS + e) for e in range(ENDPOINTS - replaced)]
    return slice_bytes(
        name(number), 0, kept + [pod_address(4_000_000 + number * ENDPOINTS + e) for e in range(replaced)]
    )


def objects(services: int) -> Iterator[bytes]:
    """Everything, as the apiserver lists it: the Services, then their endpoints."""
    yield from map(service, range(services))
    yield from map(endpoints, range(services))


def decoded(raws: Iterable[bytes]) -> list[Upserted]:
    """Objects as events."""
    found = []
    for raw in raws:
        obj, problems = DECODERS["EndpointSlice" if b'"kind": "EndpointSlice"' in raw else "Service"](raw)
        assert obj is not None
        assert not problems, problems
        found.append(Upserted(obj))
    return found


class Recorder:
    """In the place of a netlink socket: keeps what should be sent, and sends nothing."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def transact(self, messages: Sequence[Message]) -> list[int]:
        """Keep messages, and say that all went well."""
        self.sent += messages
        return [0] * len(messages)


class StandIn:
    """Destinations as members of a set: what a change costs where the kernel has no IPVS."""

    def __init__(self) -> None:
        key = IpSetKey("STAND-IN")
        SetDriver(lambda _: True).write(Batch((IpSet(key, SetType.HASH_IP_PORT, Family.IPV4),)))
        self._members = MemberDriver(lambda _: True)

    @property
    def _wire(self) -> Any:
        return self._members._wire

    @_wire.setter
    def _wire(self, wire: Any) -> None:
        self._members._wire = wire

    def read(self) -> list[Destination]:
        return []

    def owns(self, row: Destination) -> bool:
        del row
        return True

    def write(self, batch: Batch[Destination]) -> Outcome:
        assert not batch.change
        outcome = self._members.write(Batch(tuple(map(_member, batch.add)), (), tuple(map(_member, batch.remove))))
        assert not outcome.failed, outcome.failed
        return outcome


def _member(row: Destination) -> Member:
    key: DestinationKey = row.key
    return Member(MemberKey("STAND-IN", key.address, 32, int(key.service.protocol), key.port))


class Proxy:
    """A node's service proxy. Tables of which `drivers` says nothing are nowhere."""

    def __init__(self, drivers: Mapping[type[Row], Any]) -> None:
        self.world = ProxyWorld(drivers={**dict.fromkeys(ROWS, Nowhere()), **drivers})

    def desired(self, row: type[Row]) -> Mapping[Any, Any]:
        """The rows of a table that are wanted."""
        return self.world.planner.ledgers[row].desired

    def take(self, events: Iterable[Upserted]) -> int:
        """Work off decoded events; how many rows were written."""
        for event in events:
            self.world.put(event)
        written = self.world.sync()
        assert not self.world.report.failed, list(self.world.report.failed.items())[:3]
        assert not self.world.report.errors, self.world.report.errors
        return written

    def hear(self, raws: Iterable[bytes], *, writes: int) -> float:
        """Seconds from the bytes of events to the last answer of the kernel, which must come to so many writes."""
        with stopwatch() as seconds:
            for raw in raws:
                self.world.feed(raw)
            written = self.world.sync()
        assert written == writes, (written, writes)
        assert not self.world.report.failed, list(self.world.report.failed.items())[:3]
        return seconds()

    def audit(self, rows: Iterable[type[Row]] = IPVS) -> float:
        """Seconds to read tables and to find nothing to do."""
        with stopwatch() as seconds:
            self.world.dataplane.resync(tuple(rows))
            written = self.world.sync()
        assert written == 0, written
        assert not any(self.world.report.drift.values()), self.world.report.drift
        return seconds()


def ipvs_proxy() -> Proxy:
    """A proxy over the IPVS of this thread's namespace."""
    wanted: list[Proxy] = []
    ownership = Ownership(lambda key: key in wanted[0].desired(VirtualService) if wanted else False)
    drivers: dict[type[Row], Any] = {
        VirtualService: VirtualServiceDriver(ownership),
        Destination: DestinationDriver(ownership, lambda key: key in wanted[0].desired(Destination)),
    }
    proxy = Proxy(drivers)
    wanted.append(proxy)
    return proxy


def stand_in_proxy() -> Proxy:
    """A proxy whose destinations are members of a set in this thread's namespace."""
    return Proxy({Destination: StandIn()})


def restorable(services: Iterable[VirtualService], destinations: Iterable[Destination]) -> str:
    """Services and destinations as `ipvsadm -R` reads them."""
    lines = [f"-A -t {ip_address(row.key.address)}:{row.key.port} -s {row.scheduler}" for row in services]
    for row in destinations:
        place = row.key.service
        where = f"-t {ip_address(place.address)}:{place.port}"
        lines.append(f"-a {where} -r {ip_address(row.key.address)}:{row.key.port} -m -w {row.weight}")
    return "\n".join([*lines, ""])


@contextmanager
def settled() -> Iterator[None]:
    """The collector as the daemon sets it once it has worked off its first lists."""
    gc.collect()
    gc.freeze()
    try:
        with quiet_collector():
            yield
    finally:
        gc.unfreeze()


class Latency(NamedTuple):
    """Median and 99th percentile in what spawning a tool takes, and the median in seconds."""

    middle: float
    late: float
    seconds: float


def single_changes(label: str, proxy: Proxy, services: int, spawn: Callable[[], float]) -> Latency:
    """One endpoint's change, from its bytes to the kernel's answer.

    The round with the best 99th percentile counts: what others on the machine do meanwhile is not ours.
    """
    raws = [endpoints(turn // 2 % services, replaced=(turn + 1) % 2) for turn in range(CHANGES)]
    rounds: list[Latency] = []
    for _ in range(ROUNDS):
        with settled():
            seconds = sorted(proxy.hear((raw,), writes=2) for raw in raws)
        spawned = statistics.median(spawn() for _ in range(10))
        middle, late = statistics.median(seconds), seconds[CHANGES * 99 // 100]
        print(
            f"# {label}: {services} Services, p50 {middle * 1e3:.3f} ms, p99 {late * 1e3:.3f} ms; "
            f"a spawned tool {spawned * 1e3:.2f} ms",
            flush=True,
        )
        rounds.append(Latency(middle / spawned, late / spawned, middle))
    return min(rounds, key=lambda each: each.late)


def burst(label: str, proxy: Proxy, runs: int) -> float:
    """A burst of changes in as many Services, against decoding the events and sending each message by itself."""
    there, back = ([endpoints(n, replaced=some) for n in range(BURST)] for some in (1, 0))
    driver = proxy.world.drivers[Destination]
    real = driver._wire
    messages: list[list[Message]] = []
    for raws in (there, back):
        proxy.hear(raws, writes=2 * BURST)
        driver._wire = recorder = Recorder()
        for _, batch in proxy.world.report.batches:
            for row in batch.add:
                driver.write(Batch((row,)))
            for row in batch.remove:
                driver.write(Batch(remove=(row,)))
        driver._wire = real
        assert len(recorder.sent) == 2 * BURST
        messages.append(recorder.sent)

    def ours() -> float:
        return sum(proxy.hear(raws, writes=2 * BURST) for raws in (there, back)) / 2

    def floor() -> float:
        with stopwatch() as seconds:
            for raws, sent in zip((there, back), messages, strict=True):
                decoded(raws)
                for message in sent:
                    real.transact((message,))
        return seconds() / 2

    with settled():
        return ratio(label, ours, floor, runs)


def silent(proxy: Proxy, services: int) -> int:
    """Rows written because of events that change nothing which we read: annotations, managedFields, versions."""
    marks = (b'"resourceVersion": "', b'"annotations": {"checked-at": "%d"}, "resourceVersion": "9' % time.time_ns())
    raws = [raw.replace(*marks).replace(b'"f:x"', b'"f:y"') for raw in objects(services)]
    return proxy.take(decoded(raws))
