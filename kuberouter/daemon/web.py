"""What the process says over HTTP: is it alive, are its controllers ready, and if not, why; and its metrics."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

from kuberouter.daemon.access import OPEN, Access
from kuberouter.daemon.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

MOST_CLIENTS = 32
"""Connections that are served at a time; further ones are closed at once."""
_Request = socket.socket | tuple[bytes, socket.socket]
_Address = tuple[str, int] | str
PLAIN = "text/plain; charset=utf-8"


class Asked(NamedTuple):
    """What a client asks for."""

    target: str
    here: bool
    """The client is on this host."""
    authorization: str
    """The header of that name; empty if there is none."""


class Answer(NamedTuple):
    """Status, body and what kind of text it is."""

    status: int
    body: str
    kind: str = PLAIN


NOT_FOUND = Answer(404, "not found\n")
FORBIDDEN = Answer(403, "only told on the node itself\n")
UNAUTHORIZED = Answer(401, "who asks? Authorization: Bearer and the token of --metrics-token-file\n")
STARTING = (("process", False, "starting"),)


class HealthView(Protocol):
    """What the endpoints ask; called from the server's threads."""

    def alive(self) -> bool:
        """Whether the process does its work, well or not."""
        ...

    def readiness(self) -> Sequence[tuple[str, bool, str]]:
        """Each controller's name, whether it is ready, and what is missing if not."""
        ...

    def startup(self) -> Sequence[tuple[str, bool, str]]:
        """Each controller's name, whether it has begun its work, well or not, and what it does instead."""
        ...

    def pod(self, name: str) -> tuple[int, str]:
        """Status and body for a pod given as `namespace/name`: whether policy is in force for it."""
        ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], answer: Callable[[Asked], Answer], access: Access) -> None:
        """`access` says whether it is TLS that is spoken."""
        self.answer = answer
        self._access = access
        self._seats = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind; without the look-up of this host's own name that the base class makes, for a DNS server may be slow."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "kube-router", int(self.server_address[1])

    def process_request(self, request: _Request, client_address: _Address) -> None:
        """Serve a client on a thread of its own, or hang up when there are too many."""
        if not self._seats.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: _Request, client_address: _Address) -> None:
        """The body of a client's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._seats.release()

    def finish_request(self, request: _Request, client_address: _Address) -> None:
        """Answer a client; on its own thread, so that who is slow to agree on keys holds up nobody else."""
        if not isinstance(request, socket.socket) or (tls := self._access.tls) is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_Handler.timeout)
        with tls.context().wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)
            # Say that this was all; whether the client says so as well does not matter.
            with contextlib.suppress(OSError, ValueError):
                secured.settimeout(0)
                secured.unwrap()

    def handle_error(self, request: _Request, client_address: _Address) -> None:
        """A client that hangs up early is its own business; everything else is a bug and told."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a request could not be answered")


class _DualStack(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        """Bind to IPv4 as well, where the address is that of all interfaces."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5
    """Seconds that a client may take to say what it wants."""

    def do_GET(self) -> None:
        # Whoever talks to an address from the same address is on this host, loopback or not.
        here = self.connection.getsockname()[0] == self.client_address[0]
        asked = Asked(self.path, here, self.headers.get("Authorization", ""))
        status, body, kind = self.server.answer(asked)
        raw = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        if status == UNAUTHORIZED.status:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    do_HEAD = do_POST = do_PUT = do_OPTIONS = do_GET  # noqa: N815 - probes may use any method

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Probes come every few seconds; they are not worth a line."""
        del format, args


def checked(check: str, states: Sequence[tuple[str, bool, str]], *, word: str, verbose: bool) -> tuple[int, str]:
    """Status and body for controllers given as (name, good, reason); `word` is what a good one is.

    All must be good for a 200. The controllers are listed when `verbose` is asked for or one is not good.
    """
    passed = all(ok for _, ok, _ in states)
    if passed and not verbose:
        return 200, "OK\n"
    lines = [": ".join(filter(None, (name, word if ok else f"not {word}", reason))) for name, ok, reason in states]
    lines.append(f"{check} check {'passed' if passed else 'failed'}")
    return 200 if passed else 500, "\n".join(lines) + "\n"


class _Listener:
    """Listens from the moment it is made."""

    def __init__(self, name: str, address: str, port: int, access: Access = OPEN) -> None:
        """Bind. An empty address is every address of both families. Raises OSError when it cannot."""
        kind = _Server if address and ":" not in address else _DualStack
        try:
            self._http = kind((address or "::", port), self._answer, access)
        except OSError:
            if address:
                raise
            # A kernel without IPv6.
            self._http = _Server(("0.0.0.0", port), self._answer, access)
        self._open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _answer(self, asked: Asked, /) -> Answer:
        raise NotImplementedError

    def _run(self) -> None:
        # Not `serve_forever`: that one wakes up twice a second to see whether it should end.
        while self._open:
            self._http.handle_request()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._http.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._open = False
        # A listening socket that is shut down wakes up who waits for it.
        self._http.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._http.server_close()


class HealthServer(_Listener):
    """Until it is given a view it is alive and not ready."""

    def __init__(self, address: str, port: int) -> None:
        """Bind as a listener does."""
        self._view: HealthView | None = None
        super().__init__("health", address, port)

    def serve(self, view: HealthView) -> None:
        """Answer from this view from now on."""
        self._view = view

    def _answer(self, asked: Asked, /) -> Answer:
        url, view = urlsplit(asked.target), self._view
        query = parse_qs(url.query, keep_blank_values=True)
        if url.path in ("/healthz", "/livez"):
            alive = view is None or view.alive()
            return Answer(200, "OK\n") if alive else Answer(500, "Unhealthy")
        if url.path == "/readyz":
            states = view.readiness() if view is not None else STARTING
            return Answer(*checked("readyz", states, word="ready", verbose="verbose" in query))
        if url.path == "/startupz":
            states = view.startup() if view is not None else STARTING
            return Answer(*checked("startupz", states, word="started", verbose="verbose" in query))
        if url.path == "/podz":
            if not asked.here:
                # It tells what closes whom, and when not yet.
                return FORBIDDEN
            names = query.get("pod", [])
            if len(names) != 1 or names[0].count("/") != 1:
                return Answer(400, "which one? /podz?pod=namespace/name\n")
            return Answer(*view.pod(names[0])) if view is not None else Answer(503, "starting\n")
        return NOT_FOUND


class MetricsServer(_Listener):
    """One page under one path; until it is given the page it is not available."""

    def __init__(self, address: str, port: int, path: str, access: Access = OPEN) -> None:
        """Bind as a listener does; `access` says who may read."""
        self._path = path
        self._access = access
        self._page: Callable[[], str] | None = None
        super().__init__("metrics", address, port, access)

    def serve(self, page: Callable[[], str]) -> None:
        """Show this page from now on; it is made anew for every request, on the request's thread."""
        self._page = page

    def _answer(self, asked: Asked, /) -> Answer:
        token = self._access.token
        if token is not None and not token.admits(asked.authorization):
            return UNAUTHORIZED
        if urlsplit(asked.target).path != self._path:
            return NOT_FOUND
        page = self._page
        return Answer(503, "starting\n") if page is None else Answer(200, page(), CONTENT_TYPE)
