"""The firewall's daemon is killed again and again, mid-start and mid-apply, while policies and pods change.

Probes of both families hammer paths that policy forbids and paths that it allows, from the moment in which the daemon
says that policy is in force for the pod at their end. SURVIVE_KILLS says how often it is
killed, SURVIVE_SEED repeats a run; the lane runs a short form, `make survive` the long one.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.support.lab import Lab
from tests.support.lab.pods import Pod
from tests.support.probes import Job, Report

pytestmark = pytest.mark.root

KILLS = int(os.environ.get("SURVIVE_KILLS", "8"))
SEED = int(os.environ.get("SURVIVE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
NFTABLES, DEFAULT_DENY = "--use-nftables-for-netpol", "--netpol-default-deny"
MODES: dict[str, list[str]] = {
    "iptables-nft": ["--iptables-mode=nft"],
    "iptables-legacy": ["--iptables-mode=legacy"],
    "nftables": [NFTABLES],
    "switching": [DEFAULT_DENY],
}
"""Flags by mode; `switching` changes the backend at every other start."""
LIFE = 1.6
"""Longest life of a daemon in seconds. It is ready after about one: kills fall before, into and after the apply."""
SETTLE_EVERY = 4
RATE = 15
"""Probes a second of each stream: of a pod there are eight, by protocol, family and fate."""
ANSWER = {True: 5.0, False: 0.3}
"""Seconds that a probe of an allowed or a forbidden path waits.

A stalled machine is no loss, and a datagram that was dropped is not sent again. Refusals are limited in rate.
"""
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Ingress]}
"""
ALLOW = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow, namespace: default}
spec:
  podSelector: {matchLabels: {app: closed}}
  ingress:
  - from:
    - podSelector: {matchLabels: {role: friend}}
    - ipBlock: {cidr: 192.0.2.%d/32}
    - ipBlock: {cidr: "2001:db8:7::/64"}
"""
MORE = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: more-%d, namespace: default}
spec:
  podSelector: {matchLabels: {app: closed}}
  policyTypes: [Ingress, Egress]
  egress: [{}]
  ingress: [{from: [{podSelector: {matchLabels: {role: extra}}}], ports: [{port: %d}]}]
"""
UNREADABLE = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: unreadable, namespace: default}
spec: {podSelector: {matchLabels: {app: nobody}}, ingress: [{from: [{ipBlock: {cidr: "%s"}}]}]}
"""


class Path(NamedTuple):
    """A stream of probes that must all have the same fate."""

    source: Pod
    name: str
    allowed: bool


class Watch:
    """The streams, and what became of them."""

    def __init__(self, friend: Pod, stranger: Pod) -> None:
        self._friend, self._stranger = friend, stranger
        self._running: dict[str, list[Path]] = {}
        self.probes = 0

    def start(self, target: Pod, *, allowed: bool) -> None:
        """Hammer a pod that is closed to all but the friend, from the friend or from the stranger."""
        source = self._friend if allowed else self._stranger
        for protocol in ("tcp", "udp"):
            for address in target.ips:
                name = f"{protocol} {target.key} {address}"
                source.prober.stream(name, Job(protocol, address, 80), rate=RATE, bound=ANSWER[allowed])
                self._running.setdefault(target.key, []).append(Path(source, name, allowed))

    def stop(self, target: Pod) -> list[str]:
        """End its streams; what went wrong."""
        wrong = []
        for path in self._running.pop(target.key, []):
            report: Report = path.source.prober.stop_stream(path.name, ANSWER[path.allowed])
            self.probes += report.sent
            bad = report.lost if path.allowed else report.allowed
            if bad or not report.sent:
                wrong.append(f"{path.source.key} {path.name}: {report}")
        return wrong

    def stop_all(self) -> list[str]:
        """End all streams; what went wrong."""
        return [line for key in list(self._running) for line in self.stop(_named(key))]


def _named(key: str) -> Pod:
    space, _, name = key.partition("/")
    return Pod(name, space, "", "", {})


class Churn:
    """Changes of the cluster, none of which opens or closes a path that is watched."""

    def __init__(self, lab: Lab, draw: random.Random, watch: Watch) -> None:
        self._lab, self._draw, self._watch = lab, draw, watch
        self._passing: Pod | None = None
        self._count = 0
        self.wrong: list[str] = []

    def step(self) -> None:
        """Do one of them."""
        actions: list[Callable[[], None]] = [self._allow, self._more, self._less, self._relabel, self._unreadable]
        self._draw.choice(actions)()

    def _allow(self) -> None:
        self._lab.apply(ALLOW % self._draw.randrange(1, 255))

    def _more(self) -> None:
        self._lab.apply(MORE % (self._draw.randrange(4), self._draw.choice((80, 443, 8080))))

    def _less(self) -> None:
        self._lab.delete("NetworkPolicy", "default", f"more-{self._draw.randrange(4)}")

    def _relabel(self) -> None:
        extra = self._lab.pods["default/extra"]
        extra.labels = {"role": self._draw.choice(("extra", "none", "friendly"))}
        self._lab.update(extra)

    def _unreadable(self) -> None:
        self._lab.apply(UNREADABLE % self._draw.choice(("10.0.0.0/8", "10.0.0.0/99", "")))

    def replace_pod(self) -> Pod:
        """Remove the passing pod of before and attach another, closed one; on either node."""
        if self._passing is not None:
            self.wrong += self._watch.stop(self._passing)
            self._lab.remove_pod(self._passing)
        self._count += 1
        self._passing = self._lab.pod(
            f"passing-{self._count}", self._draw.choice(("node1", "node2")), labels={"app": "closed"}
        )
        return self._passing


@pytest.fixture(params=list(MODES))
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false", *MODES[request.param]]
    with Lab(nodes=2, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 40, "ready daemons")
        yield lab


@pytest.mark.timeout(60 + 6 * KILLS)
def test_no_kill_opens_or_closes_a_path(lab: Lab, request: pytest.FixtureRequest, tell: Callable[[str], None]) -> None:
    """kill_midsync, W14."""
    mode = request.node.callspec.params["lab"]
    draw = random.Random(SEED)
    friend = lab.pod("friend", "node1", labels={"role": "friend"})
    stranger = lab.pod("stranger", "node2")
    lab.pod("extra", "node1", labels={"role": "extra"})
    node = lab.node("node2")
    lab.apply(DENY)
    lab.apply(ALLOW % 1)
    steady = lab.pod("steady", "node2", labels={"app": "closed"})
    watch = Watch(friend, stranger)
    churn = Churn(lab, draw, watch)

    def in_force(target: Pod) -> bool:
        return lab.check_alive() and lab.node(target.node).in_force(target.key, "default/deny", "default/allow")

    def watch_from_now(target: Pod) -> None:
        """Count at once what nobody may let pass, else when the daemon says that policy is in force.

        What it says is not tried first: it has to be so at once and for good.
        """
        if closed_from_the_start:
            watch.start(target, allowed=False)
        lab.wait(lambda: in_force(target), 40, f"policy in force for {target.key}")
        for allowed in (True,) if closed_from_the_start else (True, False):
            watch.start(target, allowed=allowed)

    closed_from_the_start = DEFAULT_DENY in node.daemon_arguments
    watch_from_now(steady)
    early = 0
    start = time.monotonic()
    for number in range(KILLS):
        if number % SETTLE_EVERY == 0:
            lab.wait(lambda: lab.check_alive() and node.ready(), 40, "the daemon ready")
            watch_from_now(churn.replace_pod())
        node.stop_daemon(signal.SIGKILL)
        churn.step()
        if mode == "switching" and draw.random() < 0.5:
            arguments = [word for word in node.daemon_arguments if word != NFTABLES]
            node.daemon_arguments = arguments if NFTABLES in node.daemon_arguments else [*arguments, NFTABLES]
        node.start_daemon()
        end = time.monotonic() + draw.uniform(0.0, LIFE)
        churn.step()
        time.sleep(max(0.0, end - time.monotonic()))
        churn.step()
        early += not node.ready()
    lab.wait(lambda: lab.check_alive() and node.ready(), 40, "the daemon ready")
    wrong = churn.wrong + watch.stop_all()
    tell(
        f"survive {mode}: {KILLS} kills ({early} before the daemon was ready), {watch.probes} probes, "
        f"{len(wrong)} paths wrong, {time.monotonic() - start:.0f} s, seed {SEED}"
    )
    assert wrong == []
    assert watch.probes > 20 * KILLS
