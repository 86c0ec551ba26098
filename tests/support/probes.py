"""Probes between namespaces: what a packet meets on its way, and who answers.

A `Prober` is one long-lived process in one network namespace; see `probe_agent.py`.
"""

from __future__ import annotations

import enum
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BOUND = 0.3
"""Seconds after which a probe without an answer counts as dropped."""
PATIENCE = 5.0 if os.environ.get("KUBE_ROUTER_GUEST") else 1.0
"""Factor on the time that things may take to happen: a guest without hardware help is that much slower."""
_AGENT = Path(__file__).with_name("probe_agent.py")


class Outcome(enum.Enum):
    """What became of a probe."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    """A prompt negative answer: TCP reset or an ICMP error."""
    DROPPED = "dropped"
    """No answer within the bound."""


@dataclass(frozen=True, slots=True)
class Job:
    """One path to try: protocol `tcp`, `udp`, `sctp` or `icmp` (port 0)."""

    protocol: str
    address: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a job; `server` and `peer` are the answering pod and the source address that it saw."""

    outcome: Outcome
    server: str = ""
    peer: str = ""
    detail: str = ""
    """For a refusal: the errno's name."""
    seconds: float = 0.0

    @property
    def allowed(self) -> bool:
        return self.outcome is Outcome.ALLOWED


@dataclass(frozen=True, slots=True)
class Report:
    """Counts of a stream; `by` counts answers per server, `lost_at` and `last` are CLOCK_MONOTONIC seconds."""

    sent: int
    allowed: int
    refused: int
    dropped: int
    by: Mapping[str, int] = field(default_factory=dict)
    lost_at: Sequence[float] = ()
    last: Mapping[str, float] = field(default_factory=dict)
    """Start of the latest probe per server (or per outcome, if it was not allowed)."""
    slowest: float = 0.0
    """Seconds that the slowest answer took: how near the bound the others were."""

    @property
    def lost(self) -> int:
        return self.refused + self.dropped


class Prober:
    """The agent of one network namespace."""

    def __init__(self, namespace: Path, name: str) -> None:
        """Start it; `name` is what its servers answer with."""
        self.name = name
        words = ["nsenter", f"--net={namespace}", "setpriv", "--pdeathsig", "KILL", "--"]
        self._popen = subprocess.Popen(
            [*words, sys.executable, "-ISB", str(_AGENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._rest = b""
        self._count = 0
        self._answers: dict[int, dict[str, object]] = {}

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_ready(self) -> None:
        """Return when it runs; probes may be sent before, they wait."""
        self._collect(0, 20.0)

    def serve(self, ports: Iterable[tuple[str, int]]) -> None:
        """Listen on (protocol, port) pairs."""
        self._call("serve", name=self.name, ports=list(ports))

    def unserve(self, ports: Iterable[tuple[str, int]]) -> None:
        """Stop listening."""
        self._call("unserve", ports=list(ports))

    def probe(self, jobs: Sequence[Job], bound: float = BOUND) -> list[Result]:
        """Try all jobs at once; results in order."""
        return self.results(self.send(jobs, bound))

    def try_one(self, protocol: str, address: str, port: int = 0, bound: float = BOUND) -> Result:
        """Try one path."""
        return self.probe([Job(protocol, address, port)], bound)[0]

    def send(self, jobs: Sequence[Job], bound: float = BOUND) -> int:
        """Start jobs; the ticket is for `results`. Lets several probers work at the same time."""
        return self._send("probe", jobs=[(job.protocol, job.address, job.port) for job in jobs], timeout=bound)

    def results(self, ticket: int) -> list[Result]:
        """Wait for jobs that were sent."""
        answer = self._collect(ticket, 20.0)
        rows = answer["results"]
        assert isinstance(rows, list)
        return [_result(*row) for row in rows]

    def stream(self, name: str, job: Job, rate: float = 50.0, bound: float = BOUND) -> None:
        """Start to probe a path `rate` times a second under a name."""
        self._call("stream", name=name, job=(job.protocol, job.address, job.port), rate=rate, timeout=bound)

    def report(self, name: str) -> Report:
        """Counts of a running stream so far; probes under way are not counted."""
        return _report(self._call("report", name=name))

    def stop_stream(self, name: str, bound: float = BOUND) -> Report:
        """End a stream, wait for its last answers and return the counts."""
        return _report(self._call("stop", name=name, timeout=bound))

    def close(self) -> None:
        """End the agent."""
        self._popen.kill()
        self._popen.communicate()

    def _call(self, op: str, **words: object) -> dict[str, object]:
        return self._collect(self._send(op, **words), 20.0)

    def _send(self, op: str, **words: object) -> int:
        self._count += 1
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps({"id": self._count, "op": op, **words}).encode() + b"\n")
        self._popen.stdin.flush()
        return self._count

    def _collect(self, ticket: int, bound: float) -> dict[str, object]:
        end = time.monotonic() + bound
        while ticket not in self._answers:
            for line in self._lines(end):
                answer = json.loads(line)
                self._answers[answer["id"]] = answer
        answer = self._answers.pop(ticket)
        if "error" in answer:
            raise RuntimeError(f"probe agent {self.name}: {answer['error']}")
        return answer

    def _lines(self, end: float) -> list[bytes]:
        pipe = self._popen.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError(f"probe agent {self.name} does not answer")
        data = os.read(pipe.fileno(), 65536)
        if not data:
            raise RuntimeError(f"probe agent {self.name} ended")
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


def _result(outcome: str, detail: str, seconds: float) -> Result:
    if outcome != "allowed":
        return Result(Outcome(outcome), detail=detail, seconds=seconds)
    server, _, peer = detail.partition(" ")
    return Result(Outcome.ALLOWED, server, peer, "", seconds)


def _report(answer: dict[str, object]) -> Report:
    report = answer["report"]
    assert isinstance(report, dict)
    return Report(**report)


def until(prober: Prober, job: Job, wanted: Callable[[Result], bool], bound: float = 10.0) -> float | None:
    """Repeat a probe until its result is as wanted; seconds until the first such probe was sent, None if too late.

    `bound` is in seconds of an ordinary machine.
    """
    start = time.monotonic()
    while (now := time.monotonic() - start) < bound * PATIENCE:
        if wanted(prober.probe([job], 0.15 * PATIENCE)[0]):
            return now
        select.select([], [], [], 0.005)
    return None
