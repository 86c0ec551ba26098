"""Health check node ports: one listener each on all addresses of the node, answered by one thread for all of them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from http import HTTPStatus

from kuberouter.model.core import Batch, Outcome
from kuberouter.model.host import HealthPort
from kuberouter.wire import http

PATIENCE = 5.0
"""Seconds that a client has in all."""
MOST_CLIENTS = 256
"""Connections at a time; for a further one the oldest goes."""
BACKLOG = 128
ACK = 2.0
"""Seconds that closing a port may take."""


class HealthPortDriver:
    """Listeners of this process. `healthy` says whether the proxy as a whole does its work."""

    def __init__(self, healthy: Callable[[], bool] = lambda: True) -> None:
        self._healthy = healthy
        self._rows: dict[int, HealthPort] = {}
        self._server: _Server | None = None

    def owns(self, row: HealthPort) -> bool:
        """Every listener: they end with the process, so none was left by an earlier one."""
        return True

    def read(self) -> Iterable[HealthPort]:
        """What is answered now; nothing if the thread that answers is gone."""
        if self._server is not None and not self._server.is_alive():
            self.close()
        return list(self._rows.values())

    def write(self, batch: Batch[HealthPort]) -> Outcome:
        """Listen, answer anew, stop listening. A port that somebody else has fails alone and is tried again."""
        failed: dict[Hashable, str] = {}
        for row in batch.remove:
            del self._rows[row.key.port]
            self._serving().close_port(row.key.port)
        for _, new in batch.change:
            self._rows[new.key.port] = new
        for row in batch.add:
            port = row.key.port
            try:
                listener = _listen(port)
            except OSError as error:
                failed[row.key] = f"port {port} cannot be had: {error.strerror}"
                continue
            self._rows[port] = row
            self._serving().open_port(port, listener)
        return Outcome(failed)

    def close(self) -> None:
        """Stop listening everywhere."""
        self._rows.clear()
        if self._server is not None:
            self._server.end()
            self._server = None

    def _serving(self) -> _Server:
        if self._server is None:
            self._server = _Server(self._rows, self._healthy)
            self._server.start()
        return self._server


def _listen(port: int) -> socket.socket:
    """A listening socket of both families, or of IPv4 where the kernel has no IPv6."""
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        address = "::"
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        address = "0.0.0.0"
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _reply(request: bytes, row: HealthPort | None, *, healthy: bool) -> bytes:
    """The answer in the words of kube-proxy, whatever the path: load balancers ask for different ones."""
    method = http.method(request)
    if not method:
        return http.answer(HTTPStatus.BAD_REQUEST, {}, b"")
    if row is None:
        return http.answer(HTTPStatus.NOT_FOUND, {}, b"")
    body = {
        "service": {"namespace": row.namespace, "name": row.name},
        "localEndpoints": row.endpoints,
        "serviceProxyHealthy": healthy,
    }
    headers = {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(row.endpoints),
    }
    status = HTTPStatus.OK if row.endpoints and healthy else HTTPStatus.SERVICE_UNAVAILABLE
    return http.answer(status, headers, json.dumps(body).encode(), only_head=method == "HEAD")


class _Client:
    """A connection: what it has sent so far, and until when it may stay."""

    __slots__ = ("answered", "deadline", "port", "received", "socket")

    def __init__(self, connection: socket.socket, port: int, deadline: float) -> None:
        self.socket = connection
        self.port = port
        self.deadline = deadline
        self.received = b""
        self.answered = False


class _Server(threading.Thread):
    """Serves every port. Other threads only leave errands for it, so nothing but the rows is shared."""

    def __init__(self, rows: Mapping[int, HealthPort], healthy: Callable[[], bool]) -> None:
        super().__init__(name="health-check-ports", daemon=True)
        self._rows = rows
        self._healthy = healthy
        self._errands: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._listeners: dict[int, socket.socket] = {}
        self._clients: dict[_Client, None] = {}
        self._ending = False

    def open_port(self, port: int, listener: socket.socket) -> None:
        """Answer on a listening socket from now on."""

        def errand() -> None:
            self._listeners[port] = listener
            self._selector.register(listener, selectors.EVENT_READ, port)

        self._send(errand)

    def close_port(self, port: int) -> None:
        """Stop listening; afterwards somebody else may."""
        done = threading.Event()

        def errand() -> None:
            listener = self._listeners.pop(port, None)
            if listener is not None:
                self._selector.unregister(listener)
                listener.close()
            done.set()

        self._send(errand)
        done.wait(ACK)

    def end(self) -> None:
        """Close everything."""
        if self._rope < 0:
            return

        def errand() -> None:
            self._ending = True

        self._send(errand)
        if self.is_alive():
            self.join(ACK)
        rope, self._rope = self._rope, -1
        os.close(rope)

    def _send(self, errand: Callable[[], None]) -> None:
        self._errands.append(errand)
        # A full pipe rings as well, and where nobody listens any more the next `read` finds that out.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._rope, b"!")

    def run(self) -> None:
        """Serve until told to end."""
        try:
            while not self._ending:
                self._turn()
        finally:
            for listener in self._listeners.values():
                listener.close()
            for client in self._clients:
                client.socket.close()
            self._selector.close()
            os.close(self._bell)

    def _turn(self) -> None:
        oldest = next(iter(self._clients), None)
        wait = None if oldest is None else max(0.0, oldest.deadline - time.monotonic())
        for key, _ in self._selector.select(wait):
            if isinstance(key.data, _Client):
                self._hear(key.data)
            elif isinstance(key.data, int):
                self._welcome(key.data)
            else:
                os.read(self._bell, 4096)
        while self._errands:
            self._errands.popleft()()
        now = time.monotonic()
        # All have the same patience, so they run out of it in the order in which they came.
        for client in [client for client in self._clients if client.deadline <= now]:
            self._drop(client)

    def _welcome(self, port: int) -> None:
        try:
            connection, _ = self._listeners[port].accept()
        except OSError:
            return
        connection.setblocking(False)
        client = _Client(connection, port, time.monotonic() + PATIENCE)
        if len(self._clients) >= MOST_CLIENTS:
            self._drop(next(iter(self._clients)))
        self._clients[client] = None
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _hear(self, client: _Client) -> None:
        if client not in self._clients:
            return
        try:
            data = client.socket.recv(4096)
            if client.answered and data:
                return
            client.received += data
            if not data or len(client.received) > http.LONGEST_HEAD:
                self._drop(client)
            elif http.is_whole(client.received):
                row = self._rows.get(client.port)
                client.socket.send(_reply(client.received, row, healthy=self._healthy()))
                # The client hangs up: closing while it still sends would take the answer from it.
                client.socket.shutdown(socket.SHUT_WR)
                client.answered = True
        except OSError:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client]
        self._selector.unregister(client.socket)
        client.socket.close()
