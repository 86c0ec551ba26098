"""`python -m tests.lab.hitless`, or `make hitless`: what restarts, flaps and flushes cost, counted in probes.

While pods of different nodes probe each other, and a router outside probes a VIP that BGP told it of, things happen to
the nodes. On a kernel without IPVS the nodes answer at the VIP themselves, so that it depends on routes only. With
`--guest` such a kernel is replaced by a guest's; where that is emulated the machine has to be idle besides.

A path that nothing of ours touches is probed as well, beside the others: what it loses the machine has lost. That is
shown, and never taken off what the other paths have lost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from tests.lab.demo import GUEST_BOUND, NEEDED
from tests.support.lab import Lab, Node, netns, objects
from tests.support.lab.node import ROOT
from tests.support.lab.process import Child
from tests.support.probes import PATIENCE, Job, Prober, Report
from tests.support.routers import Bird
from tests.vm import run_in_guest

VIP = "203.0.113.10"
GATEWAY = "172.30.1.254"
"""The switch of the nodes and of the router."""
ARGUMENTS = (
    "--advertise-external-ip",
    "--service-external-ip-range=203.0.113.0/24",
    "--bgp-graceful-restart",
    "--bgp-graceful-restart-time=60s",
)
BY_ROUTES = ("--run-service-proxy=false",)
SERVICE = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  selector: {{app: web}}
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  externalIPs: [{VIP}]
  ports: [{{name: http, port: 80, targetPort: 80, protocol: TCP}}]
"""
RATE = 50.0 if PATIENCE == 1.0 else 20.0
"""Probes a second on each path."""
BOUND = 1.0
"""Seconds for an answer: TCP asks again after one, so what is answered later was lost once."""
START, SESSION = 90.0, 60.0
TAIL = 6.0
"""Seconds that are watched after everything is well again: what is stale is swept by then."""
DOWN = 1.0
"""Seconds that the wire of a node is cut."""
CONTROL_PORT = 7


@dataclass(frozen=True)
class Event:
    """Something that happens; `cause` says why it costs probes, if it does, and `bound` for how many seconds."""

    title: str
    happen: Callable[[Field], None]
    bound: float = 0.0
    cause: str = "nothing should be lost"


@dataclass(frozen=True)
class Path:
    """A path under probes."""

    title: str
    prober: Prober
    job: Job


class Field:
    """The lab with its router and its probes."""

    def __init__(self) -> None:
        self.ipvs = netns.have("ip_vs") and netns.have("dummy")
        subnets = 2 if netns.have("ipip") else 1
        self.lab = Lab(nodes=3, subnets=subnets, daemon_arguments=(*ARGUMENTS, *(() if self.ipvs else BY_ROUTES)))
        self.router = Bird(self.lab.prefix, self.lab.home, 251, 65001)
        self._probers: list[Prober] = []
        self.paths: list[Path] = []
        self.control: list[Path] = []
        """The path between the router and its switch, as one that nothing of ours touches."""

    @property
    def neighbours(self) -> list[Node]:
        """The nodes that the router peers with: those on its wire."""
        return [node for node in self.lab.nodes if node.site.subnet == 1]

    def build(self) -> None:
        """Start it all and wait until every path works."""
        lab = self.lab
        lab.__enter__()
        self.router.build(lab.fabric)
        self.router.start(self.router.configuration())
        peer = f"[{{remoteip: {self.router.addresses[0]}, remoteasn: {self.router.asn}, password: c2VjcmV0}}]"
        for node in self.neighbours:
            lab.apply(objects.node(node.site, (4,), {"kube-router.io/peers": peer}))
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(n.cni_ready() for n in lab.nodes), START, "CNI configurations")
        for number, node in enumerate(lab.nodes, 1):
            lab.pod(f"web-{number}", node.name, labels={"app": "web"})
        lab.apply(SERVICE)
        if not self.ipvs:
            for node in self.neighbours:
                self._answer(node)
        outside = self._prober(self.router.namespace, "router")
        pods = [lab.pods[f"default/web-{number}"] for number in (1, 2, 3)]
        self.paths = [
            Path("pod on node1 to pod on node2", pods[0].prober, pods[1].job()),
            Path("pod on node3 to pod on node1", pods[2].prober, pods[0].job()),
            Path("router to VIP", outside, Job("tcp", VIP, 80)),
        ]
        self._prober(lab.fabric.name, "switch").serve([("tcp", CONTROL_PORT)])
        self.control = [Path("router to its switch", outside, Job("tcp", GATEWAY, CONTROL_PORT))]
        lab.wait(self.well, SESSION, "routes and sessions")
        for path in (*self.paths, *self.control):
            lab.wait(lambda path=path: path.prober.probe([path.job])[0].allowed, SESSION, path.title)  # type: ignore[misc]

    def _prober(self, namespace: str, name: str) -> Prober:
        prober = Prober(netns.path(namespace), name)
        self._probers.append(prober)
        return prober

    def _answer(self, node: Node) -> None:
        """Have a node itself answer at the VIP."""
        node.sh(f"ip addr add {VIP}/32 dev lo")
        self._prober(node.namespace, node.name).serve([("tcp", 80)])

    def well(self) -> bool:
        """Whether daemons are ready, and all routes and sessions in place."""
        self.lab.check_alive()
        addresses = {node.ip for node in self.neighbours}
        return (
            all(node.ready() and self._routes(node) for node in self.lab.nodes)
            and all(self.router.settled(address) for address in addresses)
            and self.router.next_hops(f"{VIP}/32") == addresses
        )

    def _routes(self, node: Node) -> bool:
        table = node.sh("ip route show proto 17")
        return all(other.site.pod_cidrs[0] in table for other in self.lab.nodes if other is not node)

    def try_one(self, event: Event) -> tuple[list[Report], float]:
        """Probe all paths while an event happens and until all is well again; reports, and when it began to happen."""
        probed = [*self.paths, *self.control]
        for number, path in enumerate(probed):
            path.prober.stream(str(number), path.job, rate=RATE, bound=BOUND)
        try:
            first = self.paths[0].prober
            self.lab.wait(lambda: first.report("0").sent >= RATE, 10, "probes")
            began = time.monotonic()
            event.happen(self)
            self.lab.wait(self.well, SESSION, "routes and sessions")
            time.sleep(TAIL)
        finally:
            reports = [path.prober.stop_stream(str(n), bound=BOUND) for n, path in enumerate(probed)]
        return reports, began

    def close(self) -> None:
        """Take it down."""
        for prober in self._probers:
            prober.close()
        self.router.close()
        self.lab.close()


def _restart(number: int) -> Callable[[Field], None]:
    def happen(field: Field) -> None:
        """All daemons end at once, and others start."""
        for node in field.lab.nodes:
            assert node.daemon is not None
            node.daemon.send(number)
        for node in field.lab.nodes:
            node.stop_daemon(number)
        time.sleep(1.0)
        for node in field.lab.nodes:
            node.start_daemon()

    return happen


def _upgrade(field: Field) -> None:
    """A daemon of another version takes over on every node, one after the other; gobgpd stays."""
    place = field.lab.home / "next"
    for folder in ("kuberouter", "cmd"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    package = place / "kuberouter" / "__init__.py"
    package.write_text(package.read_text().replace('__version__ = "', '__version__ = "next-'))
    for node in field.lab.nodes:
        assert node.gobgpd is not None
        before = node.gobgpd.pid
        node.stop_daemon()
        words = [sys.executable, str(place / "cmd" / "kube-router"), *node.base_arguments, *node.daemon_arguments]
        node.daemon = Child(
            node.command(words), node.home / "daemon.log", node.environment() | {"PYTHONPATH": str(place)}
        )
        field.lab.wait(node.ready, START, f"a ready daemon on {node.name}")
        assert "version next-" in (node.home / "daemon.log").read_text(), "it is not another version"
        assert (node.gobgpd.pid, node.gobgpd.returncode()) == (before, None), "gobgpd has ended"


def _gobgpd(field: Field) -> None:
    """gobgpd of a node crashes and is started again, as a container runtime does."""
    node = field.lab.nodes[0]
    assert node.gobgpd is not None
    node.gobgpd.stop(signal.SIGKILL)
    field.lab.wait(lambda: not field.router.established(node.ip), 10, "end of the session")
    time.sleep(1.0)
    node.start_gobgpd()
    field.lab.wait(lambda: field.router.settled(node.ip), SESSION, "session with the router")


def _replace(field: Field) -> None:
    """Whole pods are replaced, one node after the other: daemon and gobgpd end as in a manifest, and others begin."""
    for node in field.lab.nodes:
        assert node.gobgpd is not None
        assert node.daemon is not None
        node.daemon.send(signal.SIGTERM)
        node.sh(f"{sys.executable} {ROOT / 'cmd' / 'gobgpd-sidecar'} --end")
        node.stop_daemon()
        node.gobgpd.stop(signal.SIGKILL)
        time.sleep(1.0)
        node.start_gobgpd()
        node.start_daemon()
        field.lab.wait(field.well, START, f"routes and sessions after {node.name}")


def _flap(field: Field) -> None:
    """The wire between a node and its switch is cut for a moment."""
    link = f"n{field.lab.nodes[1].site.number}"
    netns.configure(field.lab.fabric.name, f"link set {link} down")
    time.sleep(DOWN)
    netns.configure(field.lab.fabric.name, f"link set {link} up")


def _flush(field: Field) -> None:
    """Somebody takes away all routes that BGP brought, on every node."""
    for node in field.lab.nodes:
        node.sh("ip route flush proto 17")


EVENTS = (
    Event("SIGTERM of every daemon", _restart(signal.SIGTERM)),
    Event("SIGKILL of every daemon", _restart(signal.SIGKILL)),
    Event("upgrade, node by node", _upgrade),
    Event("crash of node1's gobgpd", _gobgpd),
    Event("new pods, node by node", _replace),
    Event(
        f"node2's wire cut for {DOWN:g} s",
        _flap,
        DOWN + 1.0,
        "no packet passes a cut wire, and the session outlives the cut, so nobody goes round it",
    ),
    Event("ip route flush proto 17", _flush, 1.0, "from the flush until the kernel's notice of it is answered"),
)
FREE = 2
"""The first so many may not cost a single probe."""


def show(event: Event, paths: Sequence[Path], reports: Sequence[Report], began: float) -> tuple[str, int, bool]:
    """The line of an event, how many probes it cost, and whether that is in its bound."""
    sent, lost = sum(report.sent for report in reports), sum(report.lost for report in reports)
    lines = [f"{event.title:<28} sent {sent:>6}  lost {lost:>4}"]
    good = True
    for path, report in zip(paths, reports, strict=True):
        if report.lost:
            first, last = (f"{moment - began:.2f}" for moment in (min(report.lost_at), max(report.lost_at)))
            how = f"{report.refused} refused, {report.dropped} unanswered"
            lines.append(
                f"    {path.title}: {report.lost} of {report.sent} ({how}), sent {first} to {last} s after it began"
            )
            good = good and max(report.lost_at) - min(report.lost_at) <= event.bound * PATIENCE
    if lost:
        lines.append(f"    cause: {event.cause}")
    return "\n".join(lines), lost, good and (event.bound > 0 or not lost)


def run() -> int:
    """Build, let all events happen, sum up."""
    field = Field()
    where = "IPVS" if field.ipvs else "the nodes themselves, by routes only: this kernel has no IPVS"
    print(f"hitless: three nodes and a router (BIRD); VIP answered by {where}", flush=True)
    costs, failed = list[int](), 0
    try:
        field.build()
        print(
            "paths: " + "; ".join(path.title for path in field.paths) + f"; {RATE:g} probes a second each", flush=True
        )
        for event in EVENTS:
            try:
                reports, began = field.try_one(event)
            except Exception as error:
                print(f"{event.title:<28} FAILED: {type(error).__name__}: {error}", flush=True)
                print(field.lab.dump(), flush=True)
                failed += 1
                break
            *reports, control = reports
            text, cost, good = show(event, field.paths, reports, began)
            if control.lost:
                text += f"\n    beside it, where nothing of ours is, the machine lost {control.lost} of {control.sent}"
            costs.append(cost)
            failed += not good
            print(text if good else f"{text}\n    FAILED: more than {event.bound:g} s", flush=True)
    except Exception as error:
        print(f"hitless: {type(error).__name__}: {error}\n{field.lab.dump()}", flush=True)
        failed += 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        field.close()
    lost = sum(costs[:FREE])
    # What was not measured is no event here.
    print(f"hitless: {len(costs)} events, lost={lost}", flush=True)
    return 1 if lost or failed else 0


def _stop(_: int, __: FrameType | None) -> None:
    raise SystemExit(143)


def main() -> int:
    """The command; the exit status is 0 only if nothing was lost that may not be."""
    parser = argparse.ArgumentParser(description="Count the probes that restarts, flaps and flushes cost.")
    parser.add_argument("--guest", action="store_true", help="use a guest's kernel where this one lacks IPVS")
    words = parser.parse_args()
    if os.geteuid():
        print("hitless: needs root for network namespaces", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _stop)
    if not Bird.installed():
        print(f"hitless: {Bird.program} is not installed", file=sys.stderr)
        return 2
    missing = [feature for feature in NEEDED if not netns.have(feature)]
    if not words.guest or not missing:
        return run()
    print(f"This kernel lacks {', '.join(missing)}: this runs in a guest with Debian's kernel.", flush=True)
    return run_in_guest([sys.executable, "-m", "tests.lab.hitless"], GUEST_BOUND)


if __name__ == "__main__":
    sys.exit(main())
