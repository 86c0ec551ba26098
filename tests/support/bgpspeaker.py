"""A minimal BGP speaker (RFC 4271): many routers in one thread, each with an address of its own and one peer.

It opens sessions, keeps them, announces IPv4 prefixes, and remembers what it heard and what went wrong. It chooses no
routes and passes none on.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from struct import Struct
from types import TracebackType
from typing import Self

from tests.support.lab import netns

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
PORT = 179
MARKER = b"\xff" * 16
LONGEST = 4096
"""Bytes of a message at most."""
RETRY = 1.0
"""Seconds after which a router that dials tries again."""
HEAD = Struct("!16sHB")
_OPENING = Struct("!BHH4sB")
_U16 = Struct("!H")


def message(kind: int, body: bytes = b"") -> bytes:
    """A message with its header."""
    return HEAD.pack(MARKER, HEAD.size + len(body), kind) + body


def open_message(asn: int, hold_time: int, identifier: bytes) -> bytes:
    """OPEN with the capabilities IPv4 unicast (RFC 4760) and AS numbers of four octets (RFC 6793)."""
    capabilities = bytes((1, 4, 0, 1, 0, 1, 65, 4)) + asn.to_bytes(4, "big")
    parameters = bytes((2, len(capabilities))) + capabilities
    # 23456 stands for an AS number that two octets cannot say.
    short = asn if asn < 1 << 16 else 23456
    return message(OPEN, _OPENING.pack(4, short, hold_time, identifier, len(parameters)) + parameters)


def update_messages(prefixes: Iterable[str], next_hop: bytes, *, path: Sequence[int] = ()) -> list[bytes]:
    """UPDATEs that announce prefixes. `path` holds AS numbers; without any it is a route of the same AS."""
    asns = b"".join(asn.to_bytes(4, "big") for asn in path)
    attributes = _attribute(1, b"\0") + _attribute(2, bytes((2, len(path))) + asns if path else b"")
    attributes += _attribute(3, next_hop)
    if not path:
        attributes += _attribute(5, (100).to_bytes(4, "big"))
    start = _U16.pack(0) + _U16.pack(len(attributes)) + attributes
    found: list[bytes] = []
    body = start
    for prefix in prefixes:
        packed = packed_prefix(prefix)
        if HEAD.size + len(body) + len(packed) > LONGEST:
            found.append(message(UPDATE, body))
            body = start
        body += packed
    if body != start:
        found.append(message(UPDATE, body))
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return bytes((0x40, kind, len(value))) + value


def packed_prefix(prefix: str) -> bytes:
    """A prefix as UPDATE has it: its length in bits, and as many octets as that takes."""
    network = ip_network(prefix)
    length = network.prefixlen
    return bytes((length,)) + network.network_address.packed[: (length + 7) // 8]


def parsed_prefixes(data: bytes) -> list[str]:
    """Prefixes as UPDATE has them."""
    found: list[str] = []
    at = 0
    while at < len(data):
        length = data[at]
        end = at + 1 + (length + 7) // 8
        found.append(f"{ip_address(data[at + 1 : end].ljust(4, bytes(1)))}/{length}")
        at = end
    return found


class Router:
    """One router: what it says, and what became of it."""

    def __init__(self, address: str, told: Mapping[str, Sequence[str]], *, dials: bool) -> None:
        """`told` are the prefixes that it announces, by their next hops. It either dials or is called."""
        self.address = address
        self.told = told
        self.dials = dials
        self.heard: set[str] = set()
        """What its peer announces."""
        self.established = False
        self.ends: list[str] = []
        """Why sessions ended that stood."""
        self.late = 0
        """How often the peer was silent for twice as long as may pass between its keepalives."""


class Speaker:
    """Routers that all peer with one address; a context manager that runs their thread."""

    def __init__(self, namespace: str, peer: str, routers: Sequence[Router], *, asn: int, peer_asn: int) -> None:
        """They live in a network namespace that has their addresses. Sessions are internal where `asn` is the peer's.

        Each proposes a hold time of 9 seconds, so a keepalive every 3.
        """
        self.routers = {router.address: router for router in routers}
        self.peer, self.asn, self.hold_time = peer, asn, 9
        self.path = () if asn == peer_asn else (asn,)
        self.sessions: set[Session] = set()
        """Those that are open."""
        self._namespace = namespace
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bgp speaker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def established(self) -> int:
        """How many sessions stand."""
        return sum(router.established for router in self.routers.values())

    def heard(self, prefix: str) -> int:
        """How many routers know a prefix from their peer."""
        return sum(prefix in router.heard for router in self.routers.values())

    def _run(self) -> None:
        with netns.inside(self._namespace):
            asyncio.set_event_loop(self._loop)
            server = self._loop.run_until_complete(
                self._loop.create_server(self._accepted, "0.0.0.0", PORT, backlog=1024)
            )
            dialing = [self._loop.create_task(self._dial(r)) for r in self.routers.values() if r.dials]
            self._ready.set()
            self._loop.run_forever()
            server.close()
            for task in dialing:
                task.cancel()
            for session in list(self.sessions):
                session.abort()
            self._loop.run_until_complete(asyncio.gather(*dialing, return_exceptions=True))
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _accepted(self) -> Session:
        return Session(self, None)

    async def _dial(self, router: Router) -> None:
        while True:
            link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            link.setblocking(False)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.bind((router.address, 0))
            try:
                await asyncio.wait_for(self._loop.sock_connect(link, (self.peer, PORT)), RETRY)
                _, session = await self._loop.create_connection(lambda: Session(self, router), sock=link)
                await session.closed
            except (OSError, TimeoutError):
                link.close()
            await asyncio.sleep(RETRY)


class Session(asyncio.Protocol):
    """A session of one router."""

    def __init__(self, speaker: Speaker, router: Router | None) -> None:
        """`router` is who dialled; of a call that comes in the address tells it."""
        self._speaker = speaker
        self._router = router
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._hold = float(speaker.hold_time)
        self._last = time.monotonic()
        self._why = "closed"
        self._keeping: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._speaker.sessions.add(self)
        self._router = self._router or self._speaker.routers.get(transport.get_extra_info("sockname")[0])
        if self._router is None or self._router.established:
            transport.abort()
            return
        identifier = ip_address(self._router.address).packed
        transport.write(open_message(self._speaker.asn, self._speaker.hold_time, identifier))

    def data_received(self, data: bytes) -> None:
        """Take in whole messages."""
        self._data += data
        while len(self._data) >= HEAD.size:
            _, length, kind = HEAD.unpack_from(self._data)
            if len(self._data) < length:
                return
            body, self._data = self._data[HEAD.size : length], self._data[length:]
            self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        router, transport = self._router, self._transport
        assert router is not None
        assert transport is not None
        now = time.monotonic()
        if router.established and now - self._last > 2 * self._hold / 3:
            router.late += 1
        self._last = now
        if kind == OPEN:
            self._hold = float(min(self._speaker.hold_time, _OPENING.unpack_from(body)[2]))
            transport.write(message(KEEPALIVE))
        elif kind == NOTIFICATION:
            self._why = f"notification {body[0]}.{body[1]}"
        elif kind == UPDATE:
            withdrawn = _U16.unpack_from(body)[0]
            attributes = _U16.unpack_from(body, 2 + withdrawn)[0]
            router.heard.difference_update(parsed_prefixes(body[2 : 2 + withdrawn]))
            router.heard.update(parsed_prefixes(body[4 + withdrawn + attributes :]))
        elif kind == KEEPALIVE and not router.established:
            router.established = True
            for next_hop, prefixes in router.told.items():
                transport.writelines(update_messages(prefixes, ip_address(next_hop).packed, path=self._speaker.path))
            # An UPDATE without anything is the end of what there is to tell (RFC 4724).
            transport.write(message(UPDATE, bytes(4)))
            self._keep()

    def _keep(self) -> None:
        assert self._transport is not None
        if time.monotonic() - self._last > self._hold:
            self._why = "silence for the hold time"
            self._transport.abort()
            return
        self._transport.write(message(KEEPALIVE))
        self._keeping = asyncio.get_running_loop().call_later(self._hold / 3, self._keep)

    def connection_lost(self, error: Exception | None) -> None:
        """Note it if the session stood."""
        self._speaker.sessions.discard(self)
        if self._keeping is not None:
            self._keeping.cancel()
            assert self._router is not None
            self._router.established = False
            self._router.heard.clear()
            self._router.ends.append(self._why if error is None else f"{self._why}: {error}")
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()
