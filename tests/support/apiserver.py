"""The lab apiserver: small but honest. Lists in pages, watches with bookmarks, 410, 403 and faults on demand.

It keeps any kind of object as JSON and knows nothing of what the fields mean, except names, versions and status.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.apistore import BY_KIND, SERVED, Failure, Object, Served, Store

BOOKMARK_PERIOD = 1.0
"""Seconds between bookmarks on an otherwise silent watch."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._lock = threading.Lock()
        self._open: set[socket.socket] | None = set()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Remember the connection, for a client may send more on it later."""
        assert isinstance(request, socket.socket)
        with self._lock:
            if self._open is None:
                request.close()
                return
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Forget it."""
        assert isinstance(request, socket.socket)
        with self._lock:
            if self._open is not None:
                self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End all connections, and those that come from now on."""
        with self._lock:
            hanging, self._open = self._open or set(), None
        for each in hanging:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed in mid-air is part of the game; everything else is told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # handed through as it came


class ApiServer:
    """The server as an object: start, change objects, inject faults, look at what was asked."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0, store: Store | None = None) -> None:
        """`store` has what another server served before."""
        self.store = store or Store()
        self.requests: list[tuple[str, str]] = []
        """Method and path with query of every request, in order of arrival."""
        self.faults: list[int] = []
        """HTTP codes with which the next requests fail, first in first out."""
        self.rules: dict[str, set[str]] | None = None
        """Resources that each bearer token may read and write; None allows everybody everything."""
        self.slowness = 0.0
        """Seconds that every event of a watch is held back."""
        server = self

        class Handler(_Handler):
            api = server

        self._http = _Server((address, port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="apiserver", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        address, port = self._http.server_address[:2]
        return f"http://{address!s}:{port}"

    def close(self) -> None:
        """Stop listening and hang up on everybody, also on those whose connection is idle."""
        self.store.cut()
        self._http.shutdown()
        self._http.server_close()
        self._http.hang_up()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def apply(self, obj: Object) -> None:
        """Create or replace an object."""
        self.store.put(BY_KIND[obj["kind"]], obj)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object; one that is gone is no error."""
        try:
            self.store.remove(BY_KIND[kind], namespace, name)
        except Failure as failure:
            if failure.code != 404:
                raise

    def compact(self) -> None:
        """Forget the history."""
        self.store.compact()

    def cut_streams(self) -> None:
        """End every watch in mid-air."""
        self.store.cut()


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """As servers in Go do: otherwise each answer waits 40 ms for the client to confirm its headers."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Requests are kept in `ApiServer.requests`, not printed."""
        del format, args

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        self.api.requests.append((method, self.path))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        try:
            self._dispatch(method, body)
        except Failure as failure:
            self._answer(failure.code, failure.status())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, code: int, obj: Object) -> None:
        raw = json.dumps(obj).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _dispatch(self, method: str, body: bytes) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if self.api.faults:
            code = self.api.faults.pop(0)
            raise Failure(code, "InternalError", f"injected {code}")
        if url.path in ("/api", "/apis", "/version", "/healthz", "/readyz"):
            return self._answer(200, _discovery(url.path))
        served, namespace, name, sub = resolve(url.path)
        self._authorise(method, served)
        if method == "GET" and not name:
            if query.get("watch") in ("true", "1"):
                return self._watch(served, namespace, query)
            return self._answer(200, self._list(served, namespace, query))
        return self._answer(*self._change(method, served, namespace, name, sub, body))

    def _authorise(self, method: str, served: Served) -> None:
        if self.api.rules is None:
            return
        token = (self.headers.get("Authorization") or "").partition(" ")[2]
        if token not in self.api.rules:
            raise Failure(401, "Unauthorized", "Unauthorized")
        if served.plural not in self.api.rules[token]:
            verb = "list" if method == "GET" else method.lower()
            raise Failure(
                403,
                "Forbidden",
                f'{served.plural} is forbidden: User "lab" cannot {verb} resource "{served.plural}" in API group '
                f'"{served.group}" at the cluster scope',
            )

    def _list(self, served: Served, namespace: str, query: dict[str, str]) -> Object:
        store = self.api.store
        with store.lock:
            version = store.version
            wanted = _fields(query)
            stored = sorted(store.objects[served.plural].items())
            items = [o for (ns, _), o in stored if namespace in ("", ns) and (wanted is None or wanted(o))]
            start = 0
            if token := query.get("continue"):
                asked, _, offset = token.partition(":")
                if int(asked) < store.compacted:
                    raise Failure(410, "Expired", "The provided continue parameter is too old")
                start, version = int(offset), int(asked)
            limit = int(query.get("limit") or 0)
            page = items[start : start + limit] if limit else items[start:]
            metadata: Object = {"resourceVersion": str(version)}
            if limit and start + limit < len(items):
                metadata["continue"] = f"{version}:{start + limit}"
            api = f"{served.group}/v1" if served.group else "v1"
            return {"kind": f"{served.kind}List", "apiVersion": api, "metadata": metadata, "items": page}

    def _watch(self, served: Served, namespace: str, query: dict[str, str]) -> None:
        store = self.api.store
        since = int(query.get("resourceVersion") or 0)
        end = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with store.lock:
            epoch = store.epoch
            too_old = since < store.compacted
        if too_old:
            self._chunk(
                json.dumps(
                    {"type": "ERROR", "object": Failure(410, "Expired", "too old resource version").status()}
                ).encode()
                + b"\n"
            )
            self._chunk(b"")
            return
        bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        wanted = _fields(query)
        for raw in self._events(served, namespace, since, end, epoch, bookmarks):
            if wanted is None or b'"BOOKMARK"' in raw or wanted(json.loads(raw)["object"]):
                self._chunk(raw)
        if store.epoch != epoch:
            self.close_connection = True
            return
        self._chunk(b"")

    def _events(
        self, served: Served, namespace: str, since: int, end: float, epoch: int, bookmarks: bool
    ) -> Iterator[bytes]:
        store = self.api.store
        sent = since
        while time.monotonic() < end:
            with store.lock:
                found = [c for c in store.history if c.version > sent and c.plural == served.plural]
                current = store.version
                if not found and store.epoch == epoch:
                    store.lock.wait(min(BOOKMARK_PERIOD, max(0.0, end - time.monotonic())))
                    if store.epoch == epoch and bookmarks and current > sent and current == store.version:
                        sent = current
                        marker = {"kind": served.kind, "metadata": {"resourceVersion": str(current)}}
                        yield json.dumps({"type": "BOOKMARK", "object": marker}).encode() + b"\n"
                    continue
                if store.epoch != epoch:
                    return
            for change in found:
                if namespace in ("", change.namespace):
                    if self.api.slowness:
                        time.sleep(self.api.slowness)
                    yield change.raw
                sent = change.version

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def _change(
        self, method: str, served: Served, namespace: str, name: str, sub: str, body: bytes
    ) -> tuple[int, Object]:
        store = self.api.store
        if method == "GET":
            return 200, self._get(served, namespace, name)
        if method == "DELETE":
            return 200, store.remove(served, namespace, name)
        given: Object = json.loads(body)
        if method == "POST":
            if namespace:
                given.setdefault("metadata", {}).setdefault("namespace", namespace)
            if served.kind == "Event":
                _check_event(given)
            given["metadata"].setdefault("name", given["metadata"].get("generateName", "x") + str(store.version))
            return 201, store.put(served, given, create=True)
        old = self._get(served, namespace, name)
        if method == "PATCH":
            if self.headers.get("Content-Type") != "application/merge-patch+json":
                raise Failure(415, "UnsupportedMediaType", "the lab knows merge patches only")
            given = _merge(old, given)
        if sub == "status":
            # What the request is founded on counts, be it only its status that is taken.
            version = given.get("metadata", {}).get("resourceVersion") or old["metadata"]["resourceVersion"]
            metadata = {**old["metadata"], "resourceVersion": version}
            given = {**old, "metadata": metadata, "status": given.get("status")}
        return 200, store.put(served, given, create=False)

    def _get(self, served: Served, namespace: str, name: str) -> Object:
        with self.api.store.lock:
            obj = self.api.store.objects[served.plural].get((namespace if served.namespaced else "", name))
        if obj is None:
            raise Failure(404, "NotFound", f'{served.plural} "{name}" not found')
        return obj


def _check_event(event: Object) -> None:
    """An Event lies in the namespace of its object, or in `default` if that has none (core/v1 validation)."""
    about = event.get("involvedObject", {}).get("namespace") or "default"
    if event["metadata"].get("namespace") != about:
        raise Failure(422, "Invalid", "involvedObject.namespace: does not match event.namespace")


def _fields(query: dict[str, str]) -> Callable[[Object], bool] | None:
    """Whether an object has the fields that a request selects; None selects all. The lab knows `path=value` only."""
    path, _, value = query.get("fieldSelector", "").partition("=")

    def has(obj: Object) -> bool:
        found: Any = obj
        for key in path.split("."):
            found = found.get(key, {}) if isinstance(found, dict) else {}
        return bool(found == value)

    return has if path else None


def _merge(old: Object, patch: Object) -> Object:
    """JSON merge patch (RFC 7386)."""
    merged = dict(old)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def resolve(path: str) -> tuple[Served, str, str, str]:
    """Kind, namespace, name and subresource of a path."""
    for served in SERVED:
        if not path.startswith(served.root + "/"):
            continue
        words = path.removeprefix(served.root + "/").split("/")
        namespace = ""
        if words[0] == "namespaces" and len(words) >= 3 and words[2] not in ("status", "finalize"):
            namespace, words = words[1], words[2:]
        if words[0] == served.plural:
            return served, namespace, words[1] if len(words) > 1 else "", words[2] if len(words) > 2 else ""
    raise Failure(404, "NotFound", f"the server could not find the requested resource {path}")


def _discovery(path: str) -> Object:
    if path == "/version":
        return {"major": "1", "minor": "35", "gitVersion": "v1.35.0-lab"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups = sorted({served.group for served in SERVED if served.group})
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": g,
                "versions": [{"groupVersion": f"{g}/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": f"{g}/v1", "version": "v1"},
            }
            for g in groups
        ],
    }


def main() -> None:
    """Serve until killed; prints the URL."""
    parser = argparse.ArgumentParser(description="the lab apiserver")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    with ApiServer(options.address, options.port) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
