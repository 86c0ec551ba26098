"""Leadership by a Lease (coordination.k8s.io/v1): of all who ask one at a time leads, and when it goes another does.

Not the client library's election: that ends for good when the lease is lost, cannot be stopped nor give the lease up,
measures with a clock that may jump, and lets a leader whose renewal hangs believe that it leads still.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from kuberouter.model.core import Value
from kuberouter.model.ports import Inbox, Stop
from kuberouter.model.pulse import Pulse
from kuberouter.wire.kubeapi import ApiError, Forbidden, KubeApi, Unreachable

log = logging.getLogger(__name__)

NAME = "kube-router-lballoc"
RULE = 'apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "update"]'


class LeaseTimes(Value, frozen=True):
    """Seconds: how long a lease that nobody renews is respected, how long its holder acts on it, between tries."""

    duration: float = 15.0
    renew: float = 10.0
    retry: float = 2.0


TIMES = LeaseTimes()


class _Spec(msgspec.Struct, rename="camel", omit_defaults=True):
    holder_identity: str | None = ""
    lease_duration_seconds: int | None = 0
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = 0


class _Lease(msgspec.Struct, rename="camel"):
    metadata: dict[str, Any]
    """As it is, its resourceVersion among it: whoever else has written to the lease finds it kept."""
    spec: _Spec = msgspec.field(default_factory=_Spec)
    kind: str = "Lease"
    api_version: str = "coordination.k8s.io/v1"


class Elector:
    """One who asks for the lease, holds it, loses it and asks again."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        identity: str,
        *,
        times: LeaseTimes = TIMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = "lease"
        self.trouble = ""
        """What keeps the lease from being looked at now; empty when nothing does."""
        self.holder = ""
        """Who is known to hold the lease."""
        self.term = 0
        """How often this one has come to lead."""
        self.times = times
        self.pulse = Pulse(clock)
        """Beats with each look at the lease, whatever comes of it, and between its requests."""
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._until = -math.inf
        self._seen: _Spec | None = None
        self._seen_at = 0.0

    def leads(self) -> bool:
        """Whether this one leads now. It ends by itself when the lease cannot be renewed, before others may take it."""
        return self._clock() < self._until

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Ask for the lease, or renew it, until `stop`."""
        del inbox
        while not stop.is_set():
            try:
                self.step()
            except Exception:
                self.pulse.failed()
                raise
            self.pulse.round()
            stop.wait(self.times.retry * random.uniform(0.9, 1.1))

    def step(self) -> None:
        """Look at the lease once, and take or renew it if that may be."""
        led = self.leads()
        try:
            self._ask()
            self._note("")
        except Forbidden as error:
            self._note(f"{error}; the Role lacks the rule {{{RULE}}}")
        except (ApiError, Unreachable, msgspec.DecodeError) as error:
            self._note(str(error))
        if led and not self.leads():
            log.warning("the lease %s is lost: %s", NAME, self.trouble or f"{self.holder or 'nobody'} holds it")

    def release(self) -> None:
        """Give the lease up, so that another need not wait until it runs out."""
        if not self.leads():
            return
        self._until = -math.inf
        try:
            found = self._read()
            if found is not None and found.spec.holder_identity == self._identity:
                found.spec.holder_identity, found.spec.lease_duration_seconds = "", 1
                self._send("PUT", found)
        except (ApiError, Unreachable, msgspec.DecodeError) as error:
            log.info("the lease %s is not given up, it runs out: %s", NAME, error)

    def _ask(self) -> None:
        began, now = self._clock(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found = self._read()
        self.pulse.progress()
        duration = max(1, math.ceil(self.times.duration))
        if found is None:
            spec = _Spec(self._identity, duration, now, now, 0)
            self._win("POST", _Lease({"name": NAME, "namespace": self._namespace}, spec), began)
            return
        spec = found.spec
        if spec != self._seen:
            self._seen, self._seen_at = msgspec.structs.replace(spec), began
        self.holder = spec.holder_identity or ""
        if self.holder and self.holder != self._identity:
            self._until = -math.inf
            if began < self._seen_at + self.times.duration:
                return
        if self.holder != self._identity:
            spec.acquire_time, spec.lease_transitions = now, (spec.lease_transitions or 0) + 1
        spec.holder_identity, spec.lease_duration_seconds, spec.renew_time = self._identity, duration, now
        self._win("PUT", found, began)

    def _win(self, method: str, lease: _Lease, began: float) -> None:
        try:
            self._send(method, lease)
        except ApiError as error:
            if error.status != 409:
                raise
            # Somebody else was faster; who, the next look tells.
            return
        if not self.leads():
            self.term += 1
            log.info("the lease %s is held: this process leads", NAME)
        self.holder, self._until = self._identity, began + self.times.renew

    def _path(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"

    def _read(self) -> _Lease | None:
        try:
            return msgspec.json.decode(self._api.request("GET", f"{self._path()}/{NAME}"), type=_Lease)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _send(self, method: str, lease: _Lease) -> None:
        path = self._path() if method == "POST" else f"{self._path()}/{NAME}"
        self._api.request(method, path, body=msgspec.json.encode(lease))

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("the lease %s: %s", NAME, trouble)
        self.trouble = trouble
