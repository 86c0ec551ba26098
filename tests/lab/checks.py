"""The demo's checks: each changes something or nothing, probes real paths, and says what it saw.

A check returns what it saw and how long its change took to show; it raises `Wrong` when the cluster misbehaves.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import Lab, Pod, netns
from tests.support.probes import PATIENCE, Job, Prober, Report, Result, until

SHOP = Path(__file__).with_name("shop")
FRONTEND, BACKEND, DATABASE = "10.96.0.10", "10.96.0.20", "10.96.0.30"
NODE_PORT = 30080
BOUND = 15.0
"""Seconds within which a change must show."""
RATE = 100 / PATIENCE
"""Connections per second of steady traffic: what leaves an emulated processor time for the daemon."""


class Wrong(Exception):
    """A check failed; the text is what was seen."""


@dataclass(frozen=True)
class Seen:
    """What a check saw, and seconds from its change to its effect."""

    text: str
    took: float | None = None


@dataclass(frozen=True)
class Check:
    """A row of the demo: title, what to do, and the kernel features without which it can't be done."""

    title: str
    run: Callable[[Shop], Seen]
    needs: tuple[str, ...] = ()


class Shop:
    """The lab with the shop in it."""

    def __init__(self, lab: Lab, started: float) -> None:
        """`started` is when the daemons were started, on the monotonic clock."""
        self.lab = lab
        self.started = started

    def pod(self, name: str) -> Pod:
        """A pod of the shop, or the stranger."""
        return self.lab.pods[f"default/{name}" if name == "stranger" else f"shop/{name}"]

    def apply(self, file: str) -> float:
        """Apply one of the manifests; when, on the monotonic clock."""
        now = time.monotonic()
        self.lab.apply((SHOP / file).read_text())
        return now


def soon(prober: Prober, job: Job, wanted: Callable[[Result], bool], since: float) -> float:
    """Probe until the result is as wanted; seconds since a moment. Raises Wrong with the last result."""
    if until(prober, job, wanted, BOUND) is None:
        last = prober.probe([job])[0]
        raise Wrong(f"{prober.name} -> {job.address}:{job.port} still {last.outcome.value} after {BOUND:g} s")
    return time.monotonic() - since


def expect(source: Pod, target: Pod | str, port: int, allowed: bool) -> str:
    """Probe once; the sentence about it. Raises Wrong if the outcome is another."""
    result = source.probe(target, port)
    name = target if isinstance(target, str) else target.name
    sentence = f"{source.name} -> {name}:{port} {result.outcome.value}"
    if result.allowed is not allowed:
        raise Wrong(sentence)
    return sentence


def routes_learnt(shop: Shop) -> Seen:
    """Every node has every other node's pod CIDR in its kernel."""
    nodes = shop.lab.nodes

    def missing() -> list[str]:
        tables = {node.name: node.sh("ip -4 route show proto 17") for node in nodes}
        return [
            f"{node.name} lacks {other.site.pod_cidrs[0]}"
            for node in nodes
            for other in nodes
            if other is not node and other.site.pod_cidrs[0] not in tables[node.name]
        ]

    try:
        shop.lab.wait(lambda: not missing(), 60, "routes")
    except TimeoutError:
        raise Wrong("; ".join(missing()) or "late") from None
    count = len(nodes) * (len(nodes) - 1)
    return Seen(f"{count} routes by BGP, counted from the daemons' start", time.monotonic() - shop.started)


def same_subnet(shop: Shop) -> Seen:
    """A pod's packet to a neighbouring node goes straight over the wire."""
    source, target = shop.pod("frontend-1"), shop.pod("backend-2")
    route = shop.lab.node("node1").sh(f"ip route get {target.ip}").split("\n")[0]
    if "dev eth0" not in route:
        raise Wrong(f"the route is: {route.strip()}")
    return Seen(f"{expect(source, target, 8080, True)}, node1 to node2 by {shop.lab.node('node2').ip} dev eth0")


def tunnelled(shop: Shop) -> Seen:
    """A pod's packet to a node of another subnet goes through a tunnel."""
    source, target = shop.pod("frontend-1"), shop.pod("backend-3")
    words = shop.lab.node("node1").sh(f"ip route get {target.ip}").split()
    device = words[words.index("dev") + 1]
    if not device.startswith("tun"):
        raise Wrong(f"the route to {target.ip} is by {device}")
    return Seen(f"{expect(source, target, 8080, True)}, node1 to node3 through {device}")


def balanced(shop: Shop) -> Seen:
    """A ClusterIP spreads connections over its endpoints on three nodes."""
    source = shop.pod("frontend-1").prober
    since = shop.apply("20-services.yaml")
    took = soon(source, Job("tcp", BACKEND, 80), lambda result: result.allowed, since)
    shop.lab.wait(lambda: source.try_one("tcp", BACKEND, 80).server == "backend-3", BOUND, "the third endpoint")
    results = source.probe([Job("tcp", BACKEND, 80)] * 30)
    counts = Counter(result.server or result.outcome.value for result in results)
    if sorted(counts) != ["backend-1", "backend-2", "backend-3"] or min(counts.values()) < 5:
        raise Wrong(f"30 connections to {BACKEND}:80 went to {dict(counts)}")
    return Seen(f"30 connections to {BACKEND}:80: " + ", ".join(f"{n} {c}" for n, c in sorted(counts.items())), took)


def node_port(shop: Shop) -> Seen:
    """A client outside the cluster reaches the frontend through any node."""
    since = time.monotonic()
    for node in shop.lab.nodes:
        soon(shop.lab.outside, Job("tcp", node.ip, NODE_PORT), lambda result: result.allowed, since)
    jobs = [Job("tcp", node.ip, NODE_PORT) for node in shop.lab.nodes for _ in range(4)]
    results = shop.lab.outside.probe(jobs)
    if not all(result.allowed for result in results):
        raise Wrong(f"outside -> nodes: {Counter(result.outcome.value for result in results)}")
    counts = Counter(result.server for result in results)
    return Seen(f"outside -> each node:{NODE_PORT}: " + ", ".join(f"{n} {c}" for n, c in sorted(counts.items())))


def denied(shop: Shop) -> Seen:
    """A default-deny policy closes what was open a moment ago."""
    stranger, backend = shop.pod("stranger"), shop.pod("backend-1")
    before = expect(stranger, backend, 8080, True)
    since = shop.apply("30-default-deny.yaml")
    took = soon(stranger.prober, backend.job(8080), lambda result: not result.allowed, since)
    after = stranger.probe(backend, 8080).outcome.value
    for name in ("frontend-2", "backend-3", "database-1"):
        port = shop.pod(name).ports[0][1]
        soon(stranger.prober, shop.pod(name).job(port), lambda result: not result.allowed, since)
    return Seen(f"{before}, then {after}; so are the other pods of the shop", took)


def admitted(shop: Shop) -> Seen:
    """Three policies open exactly the shop's own paths."""
    frontend, backend = shop.pod("frontend-1"), shop.pod("backend-2")
    database, stranger = shop.pod("database-1"), shop.pod("stranger")
    since = shop.apply("40-allow.yaml")
    took = soon(frontend.prober, backend.job(8080), lambda result: result.allowed, since)
    soon(backend.prober, database.job(5432), lambda result: result.allowed, since)
    soon(stranger.prober, shop.pod("frontend-2").job(80), lambda result: result.allowed, since)
    refused = [
        expect(stranger, backend, 8080, False),
        expect(frontend, database, 5432, False),
        expect(stranger, database, 5432, False),
    ]
    return Seen(f"frontend -> backend -> database allowed; {refused[0]}; {refused[1]}", took)


def policy_behind_service(shop: Shop) -> Seen:
    """A policy judges the pod behind a ClusterIP, not the ClusterIP."""
    allowed = expect(shop.pod("frontend-2"), BACKEND, 80, True)
    refused = expect(shop.pod("stranger"), BACKEND, 80, False)
    return Seen(f"{allowed}, {refused}")


def moved(shop: Shop) -> Seen:
    """A pod that stops being ready loses its traffic, and nobody notices."""
    source, leaving = shop.pod("frontend-1"), shop.pod("backend-3")
    with traffic((source.prober, "moved", Job("tcp", BACKEND, 80))) as end:
        shop.lab.wait(lambda: source.prober.report("moved").by.get(leaving.name), BOUND, "traffic to backend-3")
        since = time.monotonic()
        leaving.ready = False
        shop.lab.update(leaving)
        shop.lab.wait(lambda: _quiet(source.prober.report("moved"), leaving.name), BOUND, "the traffic's move")
        took = max(0.0, source.prober.report("moved").last[leaving.name] - since)
        shop.lab.remove_pod(leaving)
        shop.lab.wait(lambda: time.monotonic() - since > took + 1.5, BOUND)
        report = end()["moved"]
    if report.lost:
        raise Wrong(f"{_loss('ClusterIP', report, since)} lost while backend-3 left")
    sent = f"{report.sent} connections at {RATE:.0f}/s, 0 lost, {_slowest(report)}"
    return Seen(f"backend-3 left: {sent}, all to the other two", took)


@contextlib.contextmanager
def traffic(*paths: tuple[Prober, str, Job]) -> Iterator[Callable[[], dict[str, Report]]]:
    """Probe paths under names at a steady rate, until the end or until what this gives is called for the reports."""
    running: dict[str, Prober] = {}

    def end() -> dict[str, Report]:
        return {name: running.pop(name).stop_stream(name) for name in list(running)}

    try:
        for prober, name, job in paths:
            prober.stream(name, job, RATE)
            running[name] = prober
        yield end
    finally:
        with contextlib.suppress(Exception):
            end()


def _loss(name: str, report: Report, since: float) -> str:
    """What a stream lost, how and when: a stall of the machine looks different from a hole in the path."""
    times = ", ".join(f"{moment - since:.1f}" for moment in report.lost_at[:12])
    return f"{report.lost} of {report.sent} to {name} ({report.refused} refused, after {times} s)"


def _slowest(*reports: Report) -> str:
    return f"slowest {max(report.slowest for report in reports) * 1000:.0f} ms"


def _quiet(report: Report, name: str) -> bool:
    """Whether a server has not answered for half a second of probes."""
    latest = max(report.last.values(), default=0.0)
    return latest - report.last.get(name, 0.0) > 0.5


def joined(shop: Shop) -> Seen:
    """A new pod gets traffic and protection."""
    fresh = shop.lab.pod(
        "backend-4",
        "node2",
        namespace="shop",
        labels={"app": "shop", "tier": "backend"},
        ports=[("tcp", 8080, "api")],
    )
    since = time.monotonic()
    source = shop.pod("frontend-1").prober
    took = soon(source, Job("tcp", BACKEND, 80), lambda result: result.server == fresh.name, since)
    # Another node than the one that balances has to hear of the pod before it is closed.
    soon(shop.pod("stranger").prober, fresh.job(8080), lambda result: not result.allowed, since)
    return Seen(f"backend-4 answers at {BACKEND}:80; {expect(shop.pod('stranger'), fresh, 8080, False)}", took)


def joined_unbalanced(shop: Shop) -> Seen:
    """A new pod is reachable for whom the policy names and closed to others (kernels without IPVS)."""
    fresh = shop.lab.pod(
        "backend-5",
        "node2",
        namespace="shop",
        labels={"app": "shop", "tier": "backend"},
        ports=[("tcp", 8080, "api")],
    )
    since = time.monotonic()
    took = soon(shop.pod("frontend-1").prober, fresh.job(8080), lambda result: result.allowed, since)
    soon(shop.pod("stranger").prober, fresh.job(8080), lambda result: not result.allowed, since)
    return Seen(f"frontend-1 -> backend-5 allowed; {expect(shop.pod('stranger'), fresh, 8080, False)}", took)


def restarted(shop: Shop) -> Seen:
    """The daemon of a node crashes and comes back; packets don't notice."""
    lab, source = shop.lab, shop.pod("frontend-1").prober
    # By ICMP: a connection to backend-2 itself and one through the ClusterIP that ends there may pick the same source
    # port, and conntrack then takes the younger for a part of the older.
    paths = {"same subnet": Job("icmp", shop.pod("backend-2").ip)}
    # Without tunnels all nodes are in one subnet.
    paths["other subnet" if netns.have("ipip") else "third node"] = shop.pod("frontend-2").job(80)
    # What the kernel can do has to work now: a path that is left out because it is broken would make this a success.
    if netns.have("ip_vs") and netns.have("dummy"):
        paths["ClusterIP"] = Job("tcp", BACKEND, 80)
    for name, result in zip(paths, source.probe(list(paths.values())), strict=True):
        if not result.allowed:
            raise Wrong(f"{name}: {result.outcome.value} before the daemon was touched")
    closed = shop.pod("backend-1").job(8080)
    stranger = shop.pod("stranger").prober
    node = lab.node("node1")
    # Without its modules the service proxy waits, and `/readyz` as a whole says so.
    proxy = {"service-proxy: ready"} if netns.have("ip_vs") and netns.have("dummy") else set()
    ready = {"router: ready", "firewall: ready", *proxy}
    with traffic(*((source, name, job) for name, job in paths.items()), (stranger, "closed", closed)) as end:
        since = time.monotonic()
        node.kill_daemon()
        node.start_daemon()
        lab.wait(lambda: ready <= set(node.readyz().splitlines()), 60, f"node1: {', '.join(sorted(ready))}")
        took = time.monotonic() - since
        lab.wait(lambda: time.monotonic() - since > took + 1.0, BOUND)
        reports = end()
    leaked = reports.pop("closed").allowed
    lost = [_loss(name, report, since) for name, report in reports.items() if report.lost]
    if lost or leaked:
        raise Wrong(f"lost {'; '.join(lost) or 0}, let through {leaked}; the daemon was away for {took:.1f} s")
    total = sum(report.sent for report in reports.values())
    sent = f"{total} connections ({', '.join(paths)}), 0 lost, {_slowest(*reports.values())}, 0 leaked"
    return Seen(f"node1's daemon killed and started: {sent}", took)


CHECKS = (
    Check("routes learnt by BGP", routes_learnt),
    Check("pod to pod, same subnet", same_subnet),
    Check("pod to pod, through a tunnel", tunnelled, ("ipip",)),
    Check("ClusterIP balancing", balanced, ("ip_vs", "dummy")),
    Check("NodePort from outside", node_port, ("ip_vs", "dummy")),
    Check("default-deny policy", denied),
    Check("three allow policies", admitted),
    Check("policy behind a ClusterIP", policy_behind_service, ("ip_vs", "dummy")),
    Check("endpoint removed, traffic moved", moved, ("ip_vs", "dummy")),
    Check("endpoint added", joined, ("ip_vs", "dummy")),
    Check("pod added under policy", joined_unbalanced),
    Check("daemon restarted", restarted),
)
