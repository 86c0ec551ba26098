"""Both sides of a rolling update under load, each a process of its own: `serve` plays the pods, `load` their clients.

A standalone script of the standard library only, so that it starts fast. A request is a line, its answer a line with
the pod's name; an answer that ends in `bye` says that the server closes the connection now, as servers do that are told
to end.

`serve NAME=NAMESPACE...` listens in each pod's network namespace and obeys lines on stdin: `end NAME` (told to end:
finish what is open, still take what comes), `kill NAME` (the process is gone), `count NAME`. Each is answered by a line
with the open connections of that pod.

`load ADDRESS:PORT,... RATE LONG` makes RATE new connections a second with one request each and keeps LONG connections
busy, to one place after the other, until stdin ends; then it prints what became of them as JSON.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import json
import os
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

PORT = 8080
PAUSE = 0.25
"""Seconds between two requests of a long connection."""
PATIENCE = 10.0
"""Seconds after which a request without an answer has failed."""
CLONE_NEWNET = 0x40000000


class Loop:
    """A selector and timers, until `going` is False."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.going = True
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._count), call))

    def run(self) -> None:
        while self.going:
            wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for key, _ in self.selector.select(wait):
                key.data()
            now = time.monotonic()
            while self.going and self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()


# --- pods ------------------------------------------------------------------------------------------------------------


class Pod:
    """One pod's server."""

    def __init__(self, loop: Loop, name: str) -> None:
        """Listens in the network namespace that the process is in now."""
        self._loop, self._name = loop, name
        self._ending = False
        self.open: set[socket.socket] = set()
        self._listener = socket.create_server(("::", PORT), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
        self._listener.setblocking(False)
        loop.selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self.open.add(connection)
                self._loop.selector.register(
                    connection, selectors.EVENT_READ, lambda connection=connection: self._answer(connection)
                )

    def _answer(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
            if data:
                connection.send(f"{self._name}{' bye' if self._ending else ''}\n".encode())
        except OSError:
            data = b""
        if not data or self._ending:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._loop.selector.unregister(connection)
        connection.close()
        self.open.discard(connection)

    def end(self) -> None:
        self._ending = True

    def kill(self) -> None:
        for connection in list(self.open):
            self._close(connection)
        self._loop.selector.unregister(self._listener)
        self._listener.close()


def serve(places: list[str]) -> None:
    loop = Loop()
    libc = ctypes.CDLL(None, use_errno=True)
    pods: dict[str, Pod] = {}
    for place in places:
        name, _, namespace = place.partition("=")
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), namespace)
        os.close(descriptor)
        pods[name] = Pod(loop, name)

    def obey() -> None:
        line = sys.stdin.readline()
        if not line:
            loop.going = False
            return
        verb, name = line.split()
        if verb == "end":
            pods[name].end()
        elif verb == "kill":
            pods[name].kill()
        print(len(pods[name].open), flush=True)

    loop.selector.register(sys.stdin, selectors.EVENT_READ, obey)
    print("ready", flush=True)
    loop.run()


# --- clients ---------------------------------------------------------------------------------------------------------


class Tally:
    """What became of requests."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.slowest = 0.0


class Client:
    """One connection: connects, asks, waits for the answer; then asks again or is done."""

    def __init__(self, loop: Loop, place: str, tally: Tally, *, keeps: bool) -> None:
        """One that `keeps` asks on and on, and connects anew when the server says bye."""
        address, _, port = place.rpartition(":")
        self._loop, self._place, self._tally, self._keeps = loop, (address, int(port)), tally, keeps
        self._socket: socket.socket | None = None
        self._asked = 0
        self._began = 0.0
        self._stopped = False
        self._connect()

    def _connect(self) -> None:
        family = socket.AF_INET6 if ":" in self._place[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._begin()
        self._socket.connect_ex(self._place)
        self._loop.selector.register(self._socket, selectors.EVENT_WRITE, self._connected)

    def _begin(self) -> None:
        """A request counts from here, with the connecting that it takes."""
        self._began = time.monotonic()
        self._asked += 1
        asked = self._asked
        self._loop.at(self._began + PATIENCE, lambda: self._late(asked))

    def _connected(self) -> None:
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(os.strerror(code))
            return
        self._loop.selector.modify(self._socket, selectors.EVENT_READ, self._read)
        self._send()

    def _send(self) -> None:
        assert self._socket is not None
        try:
            self._socket.send(b"request\n")
        except OSError as error:
            self._fail(os.strerror(error.errno or 0))

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(256)
        except OSError as error:
            self._fail(os.strerror(error.errno or 0))
            return
        if not data:
            self._fail("closed without an answer")
            return
        self._asked += 1
        self._tally.slowest = max(self._tally.slowest, time.monotonic() - self._began)
        words = data.decode().split()
        self._tally.answered[words[0]] += 1
        if not self._keeps:
            self._close()
        elif words[-1] == "bye":
            self._close()
            self._connect()
        else:
            self._loop.at(time.monotonic() + PAUSE, self._again)

    def _again(self) -> None:
        if self._socket is not None:
            self._begin()
            self._send()

    def _late(self, asked: int) -> None:
        if asked == self._asked and self._socket is not None:
            self._fail("no answer")

    def _fail(self, why: str) -> None:
        self._tally.failed[why] += 1
        self._asked += 1
        self._close()
        if self._keeps:
            self._connect()

    def _close(self) -> None:
        if self._socket is not None:
            self._loop.selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def load(places: list[str], rate: float, count: int) -> None:
    loop = Loop()
    new, long = Tally(), Tally()
    turn = itertools.cycle(places)
    for _ in range(count):
        Client(loop, next(turn), long, keeps=True)
    began = due = time.monotonic()

    def tick() -> None:
        nonlocal due
        Client(loop, next(turn), new, keeps=False)
        # One that lags behind does not catch up in a burst.
        due = max(due + 1.0 / rate, time.monotonic() - 1.0 / rate)
        loop.at(due, tick)

    def over() -> None:
        if not sys.stdin.readline():
            loop.going = False

    loop.selector.register(sys.stdin, selectors.EVENT_READ, over)
    print("ready", flush=True)
    tick()
    loop.run()
    seconds = time.monotonic() - began
    report = {
        name: {"answered": tally.answered, "failed": tally.failed, "slowest": tally.slowest}
        for name, tally in (("new", new), ("long", long))
    }
    print(json.dumps({**report, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2:])
    else:
        load(sys.argv[2].split(","), float(sys.argv[3]), int(sys.argv[4]))
