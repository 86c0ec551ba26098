"""What the lab apiserver keeps: objects of any kind as JSON, their versions, and the history that watches read."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, NamedTuple

Object = dict[str, Any]


class Served(NamedTuple):
    """A kind of object and where it is served."""

    kind: str
    plural: str
    group: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        """URL path of the group and version."""
        return f"/apis/{self.group}/v1" if self.group else "/api/v1"


SERVED = (
    Served("Service", "services", ""),
    Served("Pod", "pods", ""),
    Served("Node", "nodes", "", False),
    Served("Namespace", "namespaces", "", False),
    Served("Event", "events", ""),
    Served("ConfigMap", "configmaps", ""),
    Served("EndpointSlice", "endpointslices", "discovery.k8s.io"),
    Served("NetworkPolicy", "networkpolicies", "networking.k8s.io"),
    Served("Lease", "leases", "coordination.k8s.io"),
)
BY_KIND = {served.kind: served for served in SERVED}


class Failure(Exception):
    """An answer other than 2xx."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    def status(self) -> Object:
        """The meta/v1 Status that says so."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
            "message": str(self),
        }


class Change(NamedTuple):
    """One entry of the history that watches read."""

    version: int
    type: str
    plural: str
    namespace: str
    raw: bytes


class Store:
    """Objects, their versions, and the history since the last compaction."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.version = 100
        self.compacted = 0
        self.objects: dict[str, dict[tuple[str, str], Object]] = {served.plural: {} for served in SERVED}
        self.history: list[Change] = []
        self.epoch = 0
        """Raised to cut every open stream."""

    def put(self, served: Served, obj: Object, *, create: bool | None = None) -> Object:
        """Create or replace; `create` True refuses an existing, False a missing object."""
        metadata = obj.setdefault("metadata", {})
        namespace = metadata.get("namespace", "") if served.namespaced else ""
        key = (namespace, metadata["name"])
        with self.lock:
            table = self.objects[served.plural]
            old = table.get(key)
            if create is True and old is not None:
                raise Failure(409, "AlreadyExists", f'{served.plural} "{key[1]}" already exists')
            if create is False and old is None:
                raise Failure(404, "NotFound", f'{served.plural} "{key[1]}" not found')
            wanted = metadata.get("resourceVersion")
            if old is not None and wanted and wanted != old["metadata"]["resourceVersion"] and create is False:
                raise Failure(409, "Conflict", f'{served.plural} "{key[1]}" was modified')
            self.version += 1
            stored: Object = json.loads(json.dumps(obj))
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            given = stored["metadata"].get("creationTimestamp")
            kept = old["metadata"]["creationTimestamp"] if old is not None else now
            stored["metadata"]["creationTimestamp"] = given or kept
            stored["metadata"]["resourceVersion"] = str(self.version)
            stored["metadata"].setdefault("uid", f"00000000-0000-0000-0000-{self.version:012d}")
            stored["kind"] = served.kind
            stored["apiVersion"] = f"{served.group}/v1" if served.group else "v1"
            table[key] = stored
            self._record("ADDED" if old is None else "MODIFIED", served, namespace, stored)
            return stored

    def remove(self, served: Served, namespace: str, name: str) -> Object:
        """Delete an object."""
        with self.lock:
            table = self.objects[served.plural]
            obj = table.pop((namespace if served.namespaced else "", name), None)
            if obj is None:
                raise Failure(404, "NotFound", f'{served.plural} "{name}" not found')
            self.version += 1
            obj["metadata"]["resourceVersion"] = str(self.version)
            self._record("DELETED", served, namespace, obj)
            return obj

    def _record(self, kind: str, served: Served, namespace: str, obj: Object) -> None:
        raw = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        self.history.append(Change(self.version, kind, served.plural, namespace, raw))
        self.lock.notify_all()

    def compact(self) -> None:
        """Forget the history: watches from older versions get 410."""
        with self.lock:
            self.compacted = self.version
            self.history.clear()

    def cut(self) -> None:
        """End every open stream in mid-air."""
        with self.lock:
            self.epoch += 1
            self.lock.notify_all()
