"""Problems as Kubernetes Events on the objects concerned, so that who wrote an object learns what is wrong with it.

Hears problems on the engine's thread and posts on its own, run like a source: the engine never waits for the apiserver.
An Event's name is made of what it says, so the same problem told again, after a restart or by another node, raises the
count of one Event instead of making more of them. Events are core/v1: every client shows those.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from kuberouter.model.core import ObjectRef, Problem
from kuberouter.model.ports import Inbox, Stop
from kuberouter.sources.apiserver import RESOURCES, Resource
from kuberouter.wire.kubeapi import ApiError, Forbidden, KubeApi, Unauthorized, Unreachable

log = logging.getLogger(__name__)

COMPONENT = "kube-router"
RULE = 'apiGroups: [""], resources: ["events"], verbs: ["create", "get", "patch"]'
MOST_WAITING = 1000
"""Problems that wait to be posted; further ones are only logged."""
BURST = 25
REFILL = 300.0
"""Events about one object at once, and the seconds after which one more may follow."""
MOST_OBJECTS = 4096
"""Objects whose rate is remembered."""
FIRST_DELAY = 1.0
LAST_DELAY = 60.0
"""Seconds between tries while the apiserver is away or refuses: doubled from the first to the last value, jittered."""
ATTEMPTS = 5
"""Tries for one Event that the apiserver answers with an error of its own."""
LONGEST_MESSAGE = 1024
"""Characters; the limit of events.k8s.io/v1, in which clients read these Events as well."""
IDLE = 1.0
_BY_KIND = {resource.kind: resource for resource in RESOURCES.values()}


class Limiter:
    """A bucket of tokens per object: `BURST` at once, then one per `REFILL` seconds."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[ObjectRef, tuple[float, float]] = OrderedDict()

    def allows(self, ref: ObjectRef, now: float) -> bool:
        """Whether an object has a token left. `now` is in seconds on a clock that does not jump."""
        return self._tokens(ref, now) >= 1.0

    def spend(self, ref: ObjectRef, now: float) -> None:
        """Take a token."""
        left = self._tokens(ref, now) - 1.0
        self._buckets.pop(ref, None)
        self._buckets[ref] = (left, now)
        if len(self._buckets) > MOST_OBJECTS:
            self._buckets.popitem(last=False)

    def _tokens(self, ref: ObjectRef, now: float) -> float:
        tokens, since = self._buckets.get(ref, (float(BURST), now))
        return min(float(BURST), tokens + (now - since) / REFILL)


class EventSink:
    """A sink of problems, and the thread's body that posts them."""

    def __init__(self, api: KubeApi, node: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = "events"
        self.trouble = ""
        """What keeps Events from being posted now; empty when nothing does."""
        self.posted = 0
        self.suppressed = 0
        """Problems that became no Event: too many wait, or too many about one object."""
        self._api = api
        self._node = node
        self._clock = clock
        self._limiter = Limiter()
        self._lock = threading.Condition()
        self._standing: Counter[Problem] = Counter()
        self._waiting: dict[Problem, None] = {}

    def raised(self, problem: Problem) -> None:
        """A problem appeared. Several compilers may have the same one: it is one Event."""
        with self._lock:
            self._standing[problem] += 1
            if self._standing[problem] > 1 or problem.owner.name == "?":
                return
            if len(self._waiting) >= MOST_WAITING:
                self.suppressed += 1
                return
            self._waiting[problem] = None
            self._lock.notify()

    def cleared(self, problem: Problem) -> None:
        """A problem is gone: if nobody was told of it yet, nobody need be."""
        with self._lock:
            self._standing[problem] -= 1
            if self._standing[problem] <= 0:
                del self._standing[problem]
                self._waiting.pop(problem, None)

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Post what waits until `stop`; tries again, with backoff, while the apiserver is away or refuses."""
        del inbox
        delay, attempts = FIRST_DELAY, 0
        while not stop.is_set():
            problem = self._next()
            if problem is None:
                continue
            try:
                self._tell(problem)
                self._note("")
            except (Unreachable, Unauthorized) as error:
                self._note(str(error))
            except Forbidden as error:
                self._note(f"{error}; the ClusterRole lacks the rule {{{RULE}}}")
                attempts = 0
                self._postpone(problem)
            except (ApiError, msgspec.DecodeError) as error:
                self._note(str(error))
                attempts += 1
            if not self.trouble or attempts >= ATTEMPTS:
                delay, attempts = FIRST_DELAY, 0
                self._done(problem)
            else:
                stop.wait(delay * random.uniform(0.5, 1.0))
                delay = min(LAST_DELAY, delay * 2)

    def _next(self) -> Problem | None:
        with self._lock:
            if not self._waiting:
                self._lock.wait(IDLE)
            return next(iter(self._waiting), None)

    def _postpone(self, problem: Problem) -> None:
        """What is forbidden for one object may be allowed for the next."""
        with self._lock:
            if self._waiting.pop(problem, self) is None:
                self._waiting[problem] = None

    def _done(self, problem: Problem) -> None:
        with self._lock:
            self._waiting.pop(problem, None)

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("Events cannot be posted: %s", trouble)
        elif self.trouble and not trouble:
            log.info("Events can be posted again")
        self.trouble = trouble

    def _tell(self, problem: Problem) -> None:
        """Post one Event, or raise the count of the one that says the same."""
        ref, resource, message = self._about(problem)
        if not self._limiter.allows(ref, self._clock()):
            self.suppressed += 1
            return
        found = self._look_up(ref, resource)
        if found is None:
            return
        event = self._event(ref, resource, found, problem.reason.value, message)
        collection = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
        try:
            self._api.request("POST", collection, body=msgspec.json.encode(event))
        except ApiError as error:
            if error.status != 409:
                # A namespace that is being deleted takes no new Events, and nobody will look for them.
                if "being terminated" in str(error):
                    return
                raise
            self._repeat(f"{collection}/{event['metadata']['name']}", event)
        self._limiter.spend(ref, self._clock())
        self.posted += 1

    def _repeat(self, path: str, event: dict[str, Any]) -> None:
        count = msgspec.json.decode(self._api.request("GET", path), type=_Counted).count
        patch = {key: event[key] for key in ("lastTimestamp", "source", "reportingInstance")} | {"count": count + 1}
        kind = "application/merge-patch+json"
        self._api.request("PATCH", path, body=msgspec.json.encode(patch), content_type=kind)

    def _about(self, problem: Problem) -> tuple[ObjectRef, Resource, str]:
        """The object that gets the Event: the problem's own, or this node for what is no object of the API."""
        resource = _BY_KIND.get(problem.owner.kind)
        if resource is None:
            return ObjectRef("Node", "", self._node), _BY_KIND["Node"], str(problem)
        return problem.owner, resource, f"{problem.field}: {problem.message}" if problem.field else problem.message

    def _look_up(self, ref: ObjectRef, resource: Resource) -> _Identity | None:
        """The object's uid, by which clients find its Events; None when there is no such object any more."""
        root, _, plural = resource.path.rpartition("/")
        place = f"{root}/namespaces/{ref.namespace}/{plural}" if ref.namespace else f"{root}/{plural}"
        try:
            return msgspec.json.decode(self._api.request("GET", f"{place}/{ref.name}"), type=_Identified).metadata
        except ApiError as error:
            if error.status == 404:
                return None
            if isinstance(error, Forbidden):
                return _Identity()
            raise

    def _event(self, ref: ObjectRef, resource: Resource, found: _Identity, reason: str, message: str) -> dict[str, Any]:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = msgspec.msgpack.encode((ref.kind, ref.namespace, ref.name, found.uid, reason, message))
        name = f"{ref.name[:200].rstrip('-.')}.{hashlib.blake2b(said, digest_size=8).hexdigest()}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            # The API keeps Events about objects without namespace in `default`.
            "metadata": {"name": name, "namespace": ref.namespace or "default"},
            "involvedObject": {
                "apiVersion": f"{resource.group}/{resource.version}" if resource.group else resource.version,
                "kind": ref.kind,
                "name": ref.name,
                **({"namespace": ref.namespace} if ref.namespace else {}),
                **({"uid": found.uid} if found.uid else {}),
            },
            "type": "Warning",
            "reason": reason,
            "message": message[:LONGEST_MESSAGE],
            "source": {"component": COMPONENT, "host": self._node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


class _Identity(msgspec.Struct):
    uid: str = ""


class _Identified(msgspec.Struct):
    metadata: _Identity = msgspec.field(default_factory=_Identity)


class _Counted(msgspec.Struct):
    count: int = 0
