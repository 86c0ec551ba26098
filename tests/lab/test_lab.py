"""The lab by itself, with routes and CNI configuration written by hand: it must be right before anything runs in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, janitor, netns
from tests.support.lab.objects import field, items, text
from tests.support.probe_agent import LOST_LIMIT
from tests.support.probes import Job, Outcome, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(nodes=3, subnets=2, families=(4, 6)) as lab:
        lab.wire_statically()
        for number in (1, 2, 3):
            lab.pod(f"p{number}", f"node{number}", labels={"app": "echo"})
        yield lab


def test_pods_reach_each_other_across_nodes_and_subnets(lab: Lab) -> None:
    pods = list(lab.pods.values())
    tickets = {}
    for source in pods:
        jobs = [Job(p, ip, 80) for target in pods for ip in target.ips for p in ("tcp", "udp", "icmp")]
        tickets[source.key] = source.prober.send(jobs)
    for source in pods:
        results = source.prober.results(tickets[source.key])
        assert len(results) == 18
        assert [result.outcome for result in results] == [Outcome.ALLOWED] * 18
        answered = [result for result in results if result.server]
        assert {result.server for result in answered} == {"p1", "p2", "p3"}
        assert {result.peer for result in answered if result.peer} <= set(source.ips)


def test_an_answer_names_the_server_and_the_source_it_saw(lab: Lab) -> None:
    p1, p3 = lab.pods["default/p1"], lab.pods["default/p3"]
    result = p1.probe(p3)
    assert (result.outcome, result.server, result.peer) == (Outcome.ALLOWED, "p3", p1.ip)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_three_outcomes(lab: Lab, protocol: str) -> None:
    p1, p3 = lab.pods["default/p1"], lab.pods["default/p3"]
    node = lab.node("node3")
    assert p1.probe(p3, 81, protocol).outcome is Outcome.REFUSED
    for target, outcome in (("REJECT", Outcome.REFUSED), ("DROP", Outcome.DROPPED)):
        assert p1.probe(p3, 80, protocol).outcome is Outcome.ALLOWED
        rule = f"FORWARD -d {p3.ip} -p {protocol} --dport 80 -j {target}"
        node.sh(f"iptables -I {rule}")
        start = time.monotonic()
        result = p1.probe(p3, 80, protocol)
        seconds = time.monotonic() - start
        node.sh(f"iptables -D {rule}")
        assert result.outcome is outcome
        assert seconds < 0.5


def test_ping_is_dropped_and_refused(lab: Lab) -> None:
    p1, p3 = lab.pods["default/p1"], lab.pods["default/p3"]
    for target, outcome in (("REJECT", Outcome.REFUSED), ("DROP", Outcome.DROPPED)):
        lab.node("node3").sh(f"iptables -I FORWARD -d {p3.ip} -p icmp -j {target}")
        result = p1.probe(p3, 0, "icmp")
        lab.node("node3").sh(f"iptables -D FORWARD -d {p3.ip} -p icmp -j {target}")
        assert result.outcome is outcome


def test_a_stream_counts_losses_and_nothing_else(lab: Lab) -> None:
    p1, p2 = lab.pods["default/p1"], lab.pods["default/p2"]
    p1.prober.stream("steady", p2.job(), rate=100)
    lab.wait(lambda: p1.prober.report("steady").sent >= 30, 10)
    assert p1.prober.report("steady").lost == 0
    # The kernel limits the rate of ICMP errors, not of resets.
    rule = f"FORWARD -d {p2.ip} -p tcp -j REJECT --reject-with tcp-reset"
    lab.node("node2").sh(f"iptables -I {rule}")
    lab.wait(lambda: p1.prober.report("steady").refused >= 5, 10)
    lab.node("node2").sh(f"iptables -D {rule}")
    assert until(p1.prober, p2.job(), lambda result: result.allowed) is not None
    report = p1.prober.stop_stream("steady")
    assert report.sent == report.allowed + report.refused + report.dropped
    assert report.refused >= 5
    assert len(report.lost_at) == min(report.lost, LOST_LIMIT)
    assert report.by["p2"] == report.allowed


def test_the_fabric_refuses_pod_addresses_without_a_route() -> None:
    with Lab(nodes=2, subnets=2) as lab:
        lab.wire_statically()
        a, b = lab.pod("a", "node1"), lab.pod("b", "node2")
        assert a.reaches(b)
        netns.configure(lab.fabric.name, "route del 10.244.2.0/24")
        assert not a.reaches(b)


def test_each_node_has_its_own_run_directory(lab: Lab) -> None:
    lab.node("node1").sh("touch /run/xtables.lock /run/only-here")
    assert lab.node("node1").sh("ls /run/only-here").strip() == "/run/only-here"
    assert lab.node("node2").sh("ls /run/only-here || true") == ""
    assert not os.path.exists("/run/only-here")


def test_endpoint_slices_follow_pods(lab: Lab) -> None:
    lab.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: default}\n"
        "spec: {clusterIP: 10.96.0.9, selector: {app: echo}, ports: [{port: 80, targetPort: http}]}\n"
    )

    def ready() -> set[str]:
        piece = lab.objects["EndpointSlice", "default", "echo-ipv4-0"]
        rows = [row for row in items(piece, "endpoints") if field(row, "conditions", "ready")]
        return {text(row, "targetRef", "name") for row in rows}

    assert ready() == {"p1", "p2", "p3"}
    p2 = lab.pods["default/p2"]
    p2.ready = False
    lab.update(p2)
    assert ready() == {"p1", "p3"}
    p2.ready = True
    lab.update(p2)
    lab.delete("Service", "default", "echo")
    assert ("EndpointSlice", "default", "echo-ipv4-0") not in lab.objects


def test_a_removed_pod_leaves_its_node_as_it_was(lab: Lab) -> None:
    before = lab.node("node1").sh("ip -o link | wc -l")
    leases = sorted(path.name for path in (lab.node("node1").home / "leases").rglob("10.244*"))
    pod = lab.pod("passing", "node1")
    assert pod.network in netns.names(lab.prefix)
    lab.remove_pod(pod)
    assert lab.node("node1").sh("ip -o link | wc -l") == before
    assert sorted(path.name for path in (lab.node("node1").home / "leases").rglob("10.244*")) == leases
    assert pod.network not in netns.names(lab.prefix)


def test_two_labs_side_by_side_do_not_meet(lab: Lab) -> None:
    with Lab(nodes=1, subnets=1) as other:
        other.wire_statically()
        twin = other.pod("twin", "node1")
        result = twin.probe(lab.pods["default/p1"].ip)
        assert twin.ip == lab.pods["default/p1"].ip
        assert result.server == "twin"
        assert lab.pods["default/p2"].probe(lab.pods["default/p1"]).server == "p1"
    assert lab.pods["default/p2"].probe(lab.pods["default/p1"]).server == "p1"


def test_closing_leaves_nothing() -> None:
    lab = Lab(nodes=2, subnets=1)
    with lab:
        lab.wire_statically()
        pod = lab.pod("p", "node1")
        pids = [pid for name in netns.names(lab.prefix) for pid in netns.processes(name)]
        assert pod.prober.pid in pids
    assert netns.names(f"{lab.prefix}-") == []
    assert not lab.home.exists()
    assert [pid for pid in pids if janitor.running(pid)] == []


def test_a_killed_lab_is_cleaned_up_by_the_janitor() -> None:
    script = (
        "from tests.support.lab import Lab\n"
        "lab = Lab(nodes=1, subnets=1).__enter__()\n"
        "lab.wire_statically(); lab.pod('p', 'node1')\n"
        "print(lab.prefix, flush=True); input()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    prefix = child.stdout.readline().strip()
    assert netns.names(prefix)
    pids = [pid for name in netns.names(prefix) for pid in netns.processes(name)]
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert netns.names(prefix)
    janitor.clean()
    assert netns.names(prefix) == []
    assert [pid for pid in pids if janitor.running(pid)] == []


def test_every_node_reaches_the_apiserver(lab: Lab) -> None:
    for node in lab.nodes:
        assert '"name": "node3"' in node.sh(f"curl -sS -m 5 {lab.api.url}/api/v1/nodes/node3 | tr -d '\\n'")


def test_a_manifest_lab_keeps_one_file_per_object() -> None:
    with Lab(nodes=1, subnets=1, manifests=True) as lab:
        lab.apply("{kind: ConfigMap, apiVersion: v1, metadata: {name: x, namespace: default}}")
        folder = lab.home / "manifests"
        names = {"node__node1.yaml", "namespace__default.yaml", "namespace__kube-system.yaml"}
        assert {path.name for path in folder.iterdir()} == names | {"configmap_default_x.yaml"}
        lab.delete("ConfigMap", "default", "x")
        assert {path.name for path in folder.iterdir()} == names
