"""One watched kind of the apiserver as events: list in pages, then watch, resume, and list again only when told to."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from kuberouter.decode import DECODERS, Decode
from kuberouter.decode.common import decode_list, identify, resource_version
from kuberouter.decode.localpod import LOCAL_PODS
from kuberouter.decode.schema import Status, WatchEvent
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Accepted, Deleted, Rejected, Synced, Upserted
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire.kubeapi import ApiError, Forbidden, Gone, KubeApi, Unreachable

log = logging.getLogger(__name__)

FIRST_DELAY = 0.2
LAST_DELAY = 30.0
"""Seconds between tries: doubled from the first to the last value, each with half of it as jitter, until one bears."""


class Resource(msgspec.Struct, frozen=True):
    """A kind of object and where the API serves it."""

    kind: str
    plural: str
    group: str
    """API group; empty is the core group."""
    version: str = "v1"
    fields: str = ""
    """A field selector: only objects with these fields are asked for."""
    name: str = ""
    """Of the source; empty is the plural."""

    @property
    def query(self) -> dict[str, str | int]:
        """What restricts the collection."""
        return {"fieldSelector": self.fields} if self.fields else {}

    @property
    def api_version(self) -> str:
        """What objects of the kind call their `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """URL path of the collection over all namespaces."""
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/{self.plural}"

    @property
    def rule(self) -> str:
        """The RBAC rule that watching needs, as one writes it."""
        return f'apiGroups: ["{self.group}"], resources: ["{self.plural}"], verbs: ["get", "list", "watch"]'


RESOURCES: Mapping[str, Resource] = {
    resource.plural: resource
    for resource in (
        Resource("Service", "services", ""),
        Resource("Pod", "pods", ""),
        Resource("Node", "nodes", ""),
        Resource("Namespace", "namespaces", ""),
        Resource("EndpointSlice", "endpointslices", "discovery.k8s.io"),
        Resource("NetworkPolicy", "networkpolicies", "networking.k8s.io"),
    )
}
"""What can be watched, by the name of its source."""


def local_pods(node: str) -> Resource:
    """What is watched for that, on the node of this name."""
    return Resource("LocalPod", "pods", "", fields=f"spec.nodeName={node}", name=LOCAL_PODS)


_EVENT = msgspec.json.Decoder(WatchEvent)
_STATUS = msgspec.json.Decoder(Status)


class ApiSource:
    """Watches one resource. Keeps the references it has told of, so that a new list can tell what vanished."""

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        decode: Decode | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`decode` reads the objects, if not all that is known of their kind is wanted."""
        self.name = resource.name or resource.plural
        self.trouble = ""
        """What keeps it from its work now; empty when nothing does. Read by the health endpoint."""
        self._api = api
        self._resource = resource
        self._decode = decode or DECODERS[resource.kind]
        self._known: set[ObjectRef] = set()
        self._rejected: set[ObjectRef] = set()
        self._synced = False
        self._version = ""
        self._fruitful = False
        """Whether the last watch was worth its opening: it told something, or lasted."""
        self._clock = clock
        self._heard = clock()

    def silence(self) -> float:
        """Seconds since the apiserver last told anything, a bookmark included; called from any thread."""
        return self._clock() - self._heard

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """List once, watch until `stop`. Errors are retried with backoff and jitter; what was told stays told."""
        delay = FIRST_DELAY
        while not stop.is_set():
            self._fruitful = False
            try:
                if not self._version:
                    self._list(inbox)
                if stop.is_set():
                    return
                self._watch(inbox, stop)
                # The server ended the watch, as it does every few minutes; resume soon.
            except Gone:
                log.info("%s: the resourceVersion is too old, listing again", self.name)
                self._version = ""
            except Forbidden as error:
                self._note(f"{error}; the ClusterRole lacks the rule {{{self._resource.rule}}}")
            except (ApiError, Unreachable, msgspec.DecodeError) as error:
                self._note(str(error))
            # A list that succeeds or a watch that opens says little: they may fail at the next step for ever.
            if self._fruitful:
                delay = FIRST_DELAY
            stop.wait(delay * random.uniform(0.5, 1.0))
            delay = min(LAST_DELAY, delay * 2)

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("%s cannot be watched: %s", self.name, trouble)
        elif self.trouble and not trouble:
            log.info("%s can be watched again", self.name)
        self.trouble = trouble

    def _list(self, inbox: Inbox) -> None:
        token, seen = "", set[ObjectRef]()
        version = ""
        while True:
            version, token, items = decode_list(self._api.list_page(self._resource.path, token, self._resource.query))
            self._heard = self._clock()
            for raw in items:
                seen.add(self._upsert(raw, inbox))
            if not token:
                break
        for ref in self._known - seen:
            inbox.put(Deleted(ref))
        self._known = seen
        self._rejected &= seen
        self._version = version
        if not self._synced:
            self._synced = True
            inbox.put(Synced(self.name))

    def _watch(self, inbox: Inbox, stop: Stop) -> None:
        lines = self._api.watch(self._resource.path, self._version, self._resource.query)
        opened = self._heard = self._clock()
        self._note("")
        try:
            self._follow(lines, inbox, stop)
        finally:
            self._fruitful = self._fruitful or self._clock() - opened > LAST_DELAY

    def _follow(self, lines: Iterator[bytes], inbox: Inbox, stop: Stop) -> None:
        for line in lines:
            if stop.is_set():
                return
            event = _EVENT.decode(line)
            if event.type == "ERROR":
                status = _STATUS.decode(event.object)
                if status.code == 410:
                    raise Gone(410, status.message)
                raise ApiError(status.code, status.message or "the watch failed")
            self._fruitful, self._heard = True, self._clock()
            if event.type in ("ADDED", "MODIFIED"):
                self._known.add(self._upsert(event.object, inbox))
            elif event.type == "DELETED":
                ref = identify(event.object, self._resource.kind)
                self._known.discard(ref)
                self._rejected.discard(ref)
                inbox.put(Deleted(ref))
            # A bookmark carries nothing but its version; every event moves the point from which to resume.
            self._version = resource_version(event.object) or self._version

    def _upsert(self, raw: msgspec.Raw, inbox: Inbox) -> ObjectRef:
        obj, problems = self._decode(raw)
        ref = obj.ref if obj is not None else identify(raw, self._resource.kind)
        if problems:
            self._rejected.add(ref)
            inbox.put(Rejected(ref, problems))
        elif ref in self._rejected:
            self._rejected.discard(ref)
            inbox.put(Accepted(ref))
        if obj is not None:
            inbox.put(Upserted(obj))
        elif not problems:
            # Read without fault, and none of our business any more.
            inbox.put(Deleted(ref))
        return ref
