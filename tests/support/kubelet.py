"""The part of a kubelet that decides whether a container lives: its probes, by their numbers, over real HTTP.

`PROBES` are the probes that we ship; manifests are to have these and no others.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.support.lab import netns

PORT = 20244


class Probe(NamedTuple):
    """An httpGet probe; seconds, and how many answers in a row decide."""

    path: str
    period: int
    timeout: int
    failures: int

    def manifest(self, port: int = PORT) -> dict[str, object]:
        """As it stands in a container."""
        return {
            "httpGet": {"path": self.path, "port": port},
            "periodSeconds": self.period,
            "timeoutSeconds": self.timeout,
            "failureThreshold": self.failures,
        }


STARTUP, LIVENESS, READINESS = "startupProbe", "livenessProbe", "readinessProbe"
PROBES: Mapping[str, Probe] = {
    # Ten minutes to load: on a busy processor ten times slower than ours it takes one.
    STARTUP: Probe("/startupz", 5, 5, 120),
    # The daemon itself waits for two minutes until it calls itself stuck, so this need not be slow as well.
    LIVENESS: Probe("/livez", 10, 5, 6),
    READINESS: Probe("/readyz", 5, 5, 3),
}


class Verdict(NamedTuple):
    """What became of probes of one kind: how many passed and failed, and how many failed in a row at most."""

    passed: int = 0
    failed: int = 0
    in_a_row: int = 0


class Kubelet:
    """Probes what runs in a network namespace, as kubelet does: the others wait until the startup probe has passed.

    It does not carry out what it decides; `killed` is the kind of probe for which it would have killed the container.
    """

    def __init__(self, namespace: str, probes: Mapping[str, Probe] = PROBES) -> None:
        self.killed = ""
        self.started_after: float | None = None
        """Seconds until the startup probe passed."""
        self.ready = False
        self.verdicts: dict[str, Verdict] = {kind: Verdict() for kind in probes}
        self._namespace = namespace
        self._probes = probes
        self._begin = time.monotonic()
        self._stop = threading.Event()
        self._up = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(kind,), daemon=True) for kind in probes]

    @contextlib.contextmanager
    def watching(self) -> Iterator[Kubelet]:
        """Probe meanwhile."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._up.set()
            for thread in self._threads:
                thread.join()

    def _watch(self, kind: str) -> None:
        probe, row = self._probes[kind], 0
        if kind != STARTUP:
            self._up.wait()
        while not self._stop.is_set():
            passed = ask(self._namespace, probe)
            row = 0 if passed else row + 1
            before = self.verdicts[kind]
            self.verdicts[kind] = Verdict(
                before.passed + passed, before.failed + (not passed), max(before.in_a_row, row)
            )
            if kind == READINESS:
                self.ready = passed or (self.ready and row < probe.failures)
            elif row >= probe.failures:
                self.killed = self.killed or kind
            if kind == STARTUP and passed:
                self.started_after = time.monotonic() - self._begin
                self._up.set()
                return
            self._stop.wait(probe.period)


def ask(namespace: str, probe: Probe) -> bool:
    """Whether a probe passes: any status from 200 to 399 within its time."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=probe.timeout)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        with netns.inside(namespace):
            connection.connect()
        connection.request("GET", probe.path)
        return 200 <= connection.getresponse().status < 400
    return False
