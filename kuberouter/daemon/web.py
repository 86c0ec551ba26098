"""Health over HTTP: is the process alive, are its controllers ready, and if not, why."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qs, urlsplit


class HealthView(Protocol):
    """What the endpoints ask; called from the server's threads."""

    def alive(self) -> bool: ...

    def readiness(self) -> Sequence[tuple[str, bool, str]]: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    view: HealthView | None = None


class _DualStack(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5
    """Seconds that a client may take to say what it wants."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        view = self.server.view
        if url.path in ("/healthz", "/livez"):
            alive = view is None or view.alive()
            self._answer(200 if alive else 500, "OK\n" if alive else "Unhealthy")
        elif url.path == "/readyz":
            states = view.readiness() if view is not None else [("process", False, "starting")]
            ready = all(ok for _, ok, _ in states)
            lines = [
                f"[{'+' if ok else '-'}] {name}: {'ready' if ok else f'not ready: {why}'}" for name, ok, why in states
            ]
            verbose = "verbose" in parse_qs(url.query, keep_blank_values=True) or not ready
            body = "\n".join([*(lines if verbose else ()), "ready" if ready else "not ready", ""])
            self._answer(200 if ready else 503, body)
        else:
            self._answer(404, "not found\n")

    def _answer(self, status: int, body: str) -> None:
        raw = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Probes come every few seconds; they are not worth a line."""
        del format, args


class HealthServer:
    """Listens from the moment it is made; until it is given a view it is alive and not ready."""

    def __init__(self, address: str, port: int) -> None:
        """Bind. An empty address is every address of both families. Raises OSError when it cannot."""
        kind = _Server if address and ":" not in address else _DualStack
        try:
            self._http = kind((address or "::", port), _Handler)
        except OSError:
            if address:
                raise
            # A kernel without IPv6.
            self._http = _Server(("0.0.0.0", port), _Handler)
        threading.Thread(target=self._http.serve_forever, name="health", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._http.server_address[1])

    def serve(self, view: HealthView) -> None:
        """Answer from this view from now on."""
        self._http.view = view

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
