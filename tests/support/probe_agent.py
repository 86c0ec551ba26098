"""Runs inside one network namespace: answers probes there and sends probes from there, in one thread.

A standalone script of the standard library only, so that it starts fast. Every line on stdin is a JSON request with an
`id`; the answer is one JSON line on stdout with the same `id`. `probes.py` is its typed counterpart.

A server answers each connection or datagram with "<name> <peer address>".
"""

from __future__ import annotations

import errno
import heapq
import itertools
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
LOST_LIMIT = 200
"""Losses whose moments a stream remembers."""
IPV6_RECVPKTINFO = 49
"""linux/in6.h."""

Message = dict[str, Any]
"""A request or an answer as JSON; its fields are those of the operation."""
Done = Callable[[str, str, float], None]


class Loop:
    """A selector and timers."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._count), call))

    def run(self) -> None:
        while True:
            wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for key, _ in self.selector.select(wait):
                key.data()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()


class Server:
    """One listening socket in both families."""

    def __init__(self, loop: Loop, name: str, protocol: str, port: int) -> None:
        self._loop, self._name = loop, name
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        self._socket = self._bind(kind, PROTOCOLS[protocol], port)
        self._socket.setblocking(False)
        if kind == socket.SOCK_STREAM:
            self._socket.listen(512)
        loop.selector.register(self._socket, selectors.EVENT_READ, self._accept if protocol != "udp" else self._echo)

    @staticmethod
    def _bind(kind: int, number: int, port: int) -> socket.socket:
        try:
            sock = socket.socket(socket.AF_INET6, kind, number)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == socket.SOCK_DGRAM:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            sock.bind(("::", port))
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            sock = socket.socket(socket.AF_INET, kind, number)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
        return sock

    def _text(self, peer: str) -> bytes:
        return f"{self._name} {peer.removeprefix('::ffff:')}\n".encode()

    def _accept(self) -> None:
        for _ in range(64):
            try:
                connection, peer = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.send(self._text(peer[0]))

    def _echo(self) -> None:
        for _ in range(64):
            try:
                _data, extra, _flags, peer = self._socket.recvmsg(256, 128)
            except OSError:
                return
            # The answer leaves from the address that was asked, which matters where a host has several.
            source = [
                (level, kind, data[:16] + struct.pack("i", 0))
                for level, kind, data in extra
                if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO
            ]
            with suppress(OSError):
                self._socket.sendmsg([self._text(peer[0])], source, 0, peer)

    def close(self) -> None:
        self._loop.selector.unregister(self._socket)
        self._socket.close()


class Probe:
    """One attempt; calls `done(outcome, detail, seconds)` exactly once, within `bound` seconds."""

    def __init__(self, loop: Loop, protocol: str, target: tuple[str, int], bound: float, done: Done) -> None:
        self._loop, self._protocol, self._done = loop, protocol, done
        self._start = time.monotonic()
        self._finished = False
        self._connected = False
        self._socket = self._open(protocol, ":" in target[0])
        self._socket.setblocking(False)
        code = self._socket.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            self._finish("refused", errno.errorcode.get(code, str(code)))
            return
        stream = protocol in ("tcp", "sctp")
        event = selectors.EVENT_WRITE if stream else selectors.EVENT_READ
        loop.selector.register(self._socket, event, self._ready)
        loop.at(self._start + bound, self._late)
        if not stream:
            self._send()
            for part in (1, 2):
                loop.at(self._start + bound * part / 3, self._send)

    @staticmethod
    def _open(protocol: str, six: bool) -> socket.socket:
        family = socket.AF_INET6 if six else socket.AF_INET
        if protocol == "icmp":
            number = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
            sock = socket.socket(family, socket.SOCK_DGRAM, number)
            # Without it a ping socket keeps quiet about ICMP errors (ip(7), IP_RECVERR is 11, IPV6_RECVERR 25).
            sock.setsockopt(socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, 25 if six else 11, 1)
            return sock
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        return socket.socket(family, kind, PROTOCOLS[protocol])

    def _send(self) -> None:
        if self._finished:
            return
        echo = 128 if self._socket.family == socket.AF_INET6 else 8
        payload = struct.pack("!BBHHH", echo, 0, 0, 0, 1) if self._protocol == "icmp" else b"probe"
        try:
            self._socket.send(payload)
        except OSError as error:
            self._fail(error.errno or 0)

    def _ready(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(code)
        elif self._protocol in ("tcp", "sctp") and not self._connected:
            self._connected = True
            self._loop.selector.modify(self._socket, selectors.EVENT_READ, self._ready)
        else:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(256)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.errno or 0)
            return
        self._finish("allowed", "" if self._protocol == "icmp" else data.decode(errors="replace").strip())

    def _late(self) -> None:
        self._finish("allowed" if self._connected else "dropped", "")

    def _fail(self, code: int) -> None:
        self._finish("refused", errno.errorcode.get(code, str(code)))

    def _finish(self, outcome: str, detail: str) -> None:
        if self._finished:
            return
        self._finished = True
        with suppress(KeyError, ValueError):
            self._loop.selector.unregister(self._socket)
        self._socket.close()
        self._done(outcome, detail, time.monotonic() - self._start)


class Stream:
    """Probes one target at a steady rate and counts."""

    def __init__(self, loop: Loop, request: Message) -> None:
        self._loop, self._request = loop, request
        self._period = 1.0 / request["rate"]
        self._next = time.monotonic()
        self._running = True
        self.sent = self.open = 0
        self.counts = {"allowed": 0, "refused": 0, "dropped": 0}
        self.by: dict[str, int] = {}
        self.lost: list[float] = []
        self.last: dict[str, float] = {}
        self.slowest = 0.0
        self._tick()

    def _tick(self) -> None:
        if not self._running:
            return
        protocol, address, port = self._request["job"]
        started = time.monotonic()

        def done(outcome: str, detail: str, seconds: float) -> None:
            self.open -= 1
            self.counts[outcome] += 1
            who = detail.split(" ")[0] if outcome == "allowed" else outcome
            self.by[who] = self.by.get(who, 0) + 1
            self.last[who] = started
            if outcome == "allowed":
                self.slowest = max(self.slowest, seconds)
            elif len(self.lost) < LOST_LIMIT:
                self.lost.append(started)

        self.sent += 1
        self.open += 1
        Probe(self._loop, protocol, (address, port), self._request["timeout"], done)
        self._next = max(self._next + self._period, started)
        self._loop.at(self._next, self._tick)

    def stop(self) -> None:
        self._running = False

    def report(self) -> Message:
        return {
            "sent": self.sent - self.open,
            **self.counts,
            "by": self.by,
            "lost_at": self.lost,
            "last": self.last,
            "slowest": self.slowest,
        }


class Agent:
    """Reads requests and answers them."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._servers: dict[tuple[str, int], Server] = {}
        self._streams: dict[str, Stream] = {}
        self._buffer = b""
        os.set_blocking(0, False)
        self._loop.selector.register(0, selectors.EVENT_READ, self._input)
        # Ping sockets are for groups in this range only (icmp(7)).
        with suppress(OSError), open("/proc/sys/net/ipv4/ping_group_range", "w") as knob:
            knob.write("0 2147483647")

    def run(self) -> None:
        self._answer({"id": 0})
        self._loop.run()

    def _input(self) -> None:
        data = os.read(0, 65536)
        if not data:
            sys.exit(0)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                getattr(self, "do_" + request["op"])(request)
            except OSError as error:
                self._answer({"id": request["id"], "error": str(error)})

    @staticmethod
    def _answer(answer: Message) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def do_serve(self, request: Message) -> None:
        for protocol, port in request["ports"]:
            if (protocol, port) not in self._servers:
                self._servers[protocol, port] = Server(self._loop, request["name"], protocol, port)
        self._answer({"id": request["id"]})

    def do_unserve(self, request: Message) -> None:
        for protocol, port in request["ports"]:
            self._servers.pop((protocol, port)).close()
        self._answer({"id": request["id"]})

    def do_probe(self, request: Message) -> None:
        jobs = request["jobs"]
        results: list[tuple[str, str, float] | None] = [None] * len(jobs)
        left = len(jobs)

        def done(index: int) -> Done:
            def finish(outcome: str, detail: str, seconds: float) -> None:
                nonlocal left
                results[index] = (outcome, detail, seconds)
                left -= 1
                if not left:
                    self._answer({"id": request["id"], "results": results})

            return finish

        if not jobs:
            self._answer({"id": request["id"], "results": []})
        for index, (protocol, address, port) in enumerate(jobs):
            Probe(self._loop, protocol, (address, port), request["timeout"], done(index))

    def do_stream(self, request: Message) -> None:
        self._streams[request["name"]] = Stream(self._loop, request)
        self._answer({"id": request["id"]})

    def do_report(self, request: Message) -> None:
        self._answer({"id": request["id"], "report": self._streams[request["name"]].report()})

    def do_stop(self, request: Message) -> None:
        stream = self._streams[request["name"]]
        stream.stop()

        end = time.monotonic() + request["timeout"] + 0.02

        def report() -> None:
            # Probes that are on their way get their time.
            if stream.open and (now := time.monotonic()) < end:
                self._loop.at(now + 0.01, report)
                return
            del self._streams[request["name"]]
            self._answer({"id": request["id"], "report": stream.report()})

        report()


if __name__ == "__main__":
    Agent().run()
