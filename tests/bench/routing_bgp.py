"""What goes out over BGP and what comes in, between two gobgpds on one wire, and one routers speak to."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from kuberouter.compilers.names import POD_CIDR_PREFIXES
from kuberouter.model import bgp
from kuberouter.model.bgp import Path as Origin
from kuberouter.model.bgp import PathKey, Peer, PeerKey, PrefixSetEntry, PrefixSetEntryKey
from kuberouter.model.core import Batch, Family, Unavailable
from kuberouter.model.events import Upserted
from kuberouter.wire.gobgp.calls import BATCH
from kuberouter.wire.gobgp.client import Connection, Follow
from kuberouter.wire.gobgp.gobgpd import Gobgp
from kuberouter.wire.gobgp.stubs import v3_pb2 as pb
from kuberouter.wire.gobgp.v3 import SERVICE, CodecV3
from tests.bench.routing_kernel import COUNT, NEIGHBOURS, Figure, Router, neighbour, prefix, prefixes
from tests.bench.yardstick import quiet_collector, ratio, stopwatch
from tests.support import bgp as support
from tests.support.bgpspeaker import Router as Spoken
from tests.support.bgpspeaker import Speaker
from tests.support.lab import netns

RUNS = 5
SINGLE = 100
US, PEER = "192.0.2.1", "192.0.2.254"
ASN = 64512
SESSION = 40.0
"""Seconds within which sessions stand."""
IPV4_UNICAST = b"\x12\x04\x08\x01\x10\x01"
"""GetTableRequest of the global table for IPv4."""
REST = 0.003
"""Seconds between two single changes."""
LOOK = 0.02
"""Seconds between two looks at a table."""
EVERYTHING = 30.0
"""Seconds within which the peer has everything."""


class Exchange:
    """A node's tables of BGP in a gobgpd, and another gobgpd whose table they end in."""

    def __init__(self, wire: support.Wire) -> None:
        self.station = wire.station("a", US)
        self.other = support.Router(
            wire.station("b", PEER), ASN, Peer(PeerKey(ip_address(US).packed), ASN, ip_address(PEER).packed)
        )
        self.connection = Connection(f"unix://{self.station.socket}")
        self.gobgp = Gobgp(self.connection)
        support.wait(self._answers, 5, "gobgpd")
        self.router = Router(support.bgp_drivers(self.gobgp))
        self.router.put(Upserted(support.node("other", [PEER], ["172.16.2.0/24"])))
        self.router.sync()
        assert not self.router.report.failed, self.router.report.failed
        self.arrived(1)

    def _answers(self) -> bool:
        try:
            self.gobgp.api.speaker()
        except Unavailable:
            return False
        return True

    def write(self, row: type[Any], batch: Batch[Any]) -> None:
        """Write rows as the engine does."""
        failed = self.router.drivers[row].write(batch).failed
        assert not failed, list(failed.items())[:3]

    def arrived(self, count: int) -> None:
        """Wait until the other gobgpd's table has so many prefixes. It is asked for the number, which costs little:
        to be told of each would take longer than all the rest.
        """
        channel: Any = self.other.api._wire
        invoke = channel._channel.unary_unary(f"{SERVICE}GetTable", bytes, bytes)
        deadline = time.monotonic() + EVERYTHING
        while (known := _first_number(invoke(IPV4_UNICAST))) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the peer has {known} prefixes and not {count}")
            time.sleep(LOOK)

    def get_bgp(self) -> float:
        """Seconds of one GetBgp call, as its client sees them."""
        invoke = self.connection._channel.unary_unary(f"{SERVICE}GetBgp", bytes, bytes)
        with stopwatch() as seconds:
            invoke(b"")
        return seconds()


def _first_number(reply: bytes) -> int:
    """The first field of a message, if it is a number: how many prefixes there are (GetTableResponse)."""
    number = shift = 0
    for byte in reply[1:] if reply[:1] == b"\x08" else b"":
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return number


class Heard:
    """What the other gobgpd has in its table by what it says of changes, followed on a thread of its own."""

    def __init__(self, other: support.Router) -> None:
        self.known: set[tuple[str, int]] = set()
        self._changed = threading.Condition()
        self._watch = other.api.watch()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        try:
            for paths in self._watch:
                with self._changed:
                    for path in paths:
                        key = (path.prefix.address, path.prefix.length)
                        (self.known.add if path.next_hop else self.known.discard)(key)  # type: ignore[arg-type]
                    self._changed.notify_all()
        except Unavailable:
            return

    def wait(self, count: int) -> None:
        """Wait until so many prefixes are known."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.known) == count, EVERYTHING):
                raise TimeoutError(f"the peer knows {len(self.known)} prefixes and not {count}")

    def close(self) -> None:
        """Listen no more."""
        self._watch.cancel()


@contextmanager
def _exchange() -> Iterator[Exchange]:
    with tempfile.TemporaryDirectory(prefix="bench-") as home, support.Wire(Path(home)) as wire:
        yield Exchange(wire)


def measure() -> list[Figure]:
    """What goes out."""
    with _exchange() as exchange:
        return [*_many(exchange), *_one(exchange)]


def _rows(texts: Sequence[str]) -> tuple[tuple[PrefixSetEntry, ...], tuple[Origin, ...]]:
    """What lets prefixes out, and the prefixes."""
    own = ip_address(US).packed
    known = [prefix(text) for text in texts]
    name = POD_CIDR_PREFIXES[Family.IPV4]
    entries = tuple(PrefixSetEntry(PrefixSetEntryKey(name, p, p.length, p.length)) for p in known)
    return entries, tuple(Origin(PathKey(p), own) for p in known)


def _many(exchange: Exchange) -> list[Figure]:
    entries, paths = _rows(prefixes())
    codec = CodecV3()
    messages = [
        pb.AddPathStreamRequest(paths=[codec.path_message(row, False) for row in paths[at : at + BATCH]])
        for at in range(0, len(paths), BATCH)
    ]

    def clear() -> None:
        exchange.write(bgp.Path, Batch(remove=paths))
        exchange.write(bgp.PrefixSetEntry, Batch(remove=entries))
        exchange.arrived(1)

    def ours() -> float:
        with stopwatch() as seconds:
            exchange.write(bgp.PrefixSetEntry, Batch(entries))
            exchange.write(bgp.Path, Batch(paths))
            exchange.arrived(COUNT + 1)
        clear()
        return seconds()

    def bare() -> float:
        exchange.write(bgp.PrefixSetEntry, Batch(entries))
        with stopwatch() as seconds:
            exchange.connection.send(f"{SERVICE}AddPathStream", messages, Empty)
            exchange.arrived(COUNT + 1)
        clear()
        return seconds()

    with quiet_collector():
        return [("routing-originate-10k", ratio("originate-10k", ours, bare, RUNS), 1.3, "ratio")]


def _one(exchange: Exchange) -> list[Figure]:
    """One prefix in a table that holds some, from its rows to what the peer says of it."""
    texts = prefixes(SINGLE)
    heard = Heard(exchange.other)
    heard.wait(1)
    batches = [_rows([text]) for text in texts]

    def originate(entries: tuple[PrefixSetEntry, ...], paths: tuple[Origin, ...]) -> float:
        count = len(heard.known)
        with stopwatch() as seconds:
            exchange.write(bgp.PrefixSetEntry, Batch(entries))
            exchange.write(bgp.Path, Batch(paths))
            heard.wait(count + 1)
        time.sleep(REST)
        return seconds()

    ours: list[float] = []
    floor: list[float] = []
    with quiet_collector():
        # In turn and after a rest, as changes come.
        for batch in batches:
            ours.append(originate(*batch))
            floor.append(exchange.get_bgp())
            time.sleep(REST)
    heard.close()
    middle, call = statistics.median(ours), statistics.median(floor)
    print(f"# originate-one: ours {middle * 1e3:.2f} ms, one GetBgp {call * 1e3:.2f} ms (n={SINGLE})", flush=True)
    return [("routing-originate-one", middle / call, 6.0, "ratio")]


def learned_dump() -> bytes:
    """The first message of gobgpd's watch where neighbours have told of all `prefixes()`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home, support.Wire(Path(home)) as wire:
        station = wire.station("a", US)
        outside = f"{wire.name}-peers"
        netns.add(outside)
        try:
            netns.configure(wire.name, f"link add to-peers type veth peer name eth0 netns {outside}")
            netns.configure(wire.name, "link set to-peers master br0", "link set to-peers up")
            addresses = [neighbour(n) for n in range(NEIGHBOURS)]
            netns.configure(outside, *(f"addr add {a}/24 dev eth0" for a in addresses), "link set eth0 up")
            peer = Peer(PeerKey(ip_address(addresses[0]).packed), ASN, ip_address(US).packed)
            here = support.Router(station, ASN, peer)
            told = {neighbour(n): [] for n in range(NEIGHBOURS)}  # type: dict[str, list[str]]
            for n, text in enumerate(prefixes()):
                told[neighbour(n)].append(text)
            speaking = Spoken(addresses[0], told, dials=True)
            with Speaker(outside, US, [speaking], asn=ASN, peer_asn=ASN):
                return _dump(here)
        finally:
            netns.remove(outside)


def _dump(here: support.Router) -> bytes:
    best = pb.WatchEventRequest.Table.Filter(type=0, init=True)
    request = pb.WatchEventRequest(table=pb.WatchEventRequest.Table(filters=[best]))
    connection: Any = here.api._wire
    deadline = time.monotonic() + SESSION
    while time.monotonic() < deadline:
        stream = Follow(connection, connection._channel.unary_stream(f"{SERVICE}WatchEvent", _encoded, bytes)(request))
        first = next(iter(stream))
        stream.cancel()
        if len(pb.WatchEventResponse.FromString(first).table.paths) == COUNT:
            return bytes(first)
        time.sleep(0.5)
    raise TimeoutError("gobgpd has not learned everything")


def _encoded(message: Any) -> bytes:
    return bytes(message.SerializeToString())
