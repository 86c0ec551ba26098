"""Which policy dropped my packet? A line of the daemon's log says it, about real packets, with both backends."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import nflog
from tests.support.lab import Lab, netns
from tests.support.lab.pods import Pod
from tests.support.probes import until

pytestmark = pytest.mark.root
PORT = 9464
ARGUMENTS = ["--run-router=false", "--run-service-proxy=false", f"--metrics-port={PORT}", "--netpol-metrics-per-policy"]
IP_TRANSPARENT = 19
POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: default}
spec:
  podSelector: {matchLabels: {app: closed}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: 80}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: confined, namespace: default}
spec: {podSelector: {matchLabels: {role: confined}}, policyTypes: [Egress]}
"""
NAMES = ("friend", "other", "confined", "target")


@pytest.fixture(scope="module", params=["false", "true"], ids=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = [*ARGUMENTS, f"--use-nftables-for-netpol={request.param}"]
    with Lab(nodes=1, subnets=1, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("other", "node1")
        lab.pod("confined", "node1", labels={"role": "confined"})
        lab.pod("target", "node1", labels={"app": "closed"})
        lab.apply(POLICIES)
        _, other, confined, target = pods(lab)
        for source, job in ((other, target.job()), (confined, other.job())):
            assert until(source.prober, job, lambda result: not result.allowed) is not None
        yield lab


def pods(lab: Lab) -> tuple[Pod, ...]:
    return tuple(lab.pods[f"default/{name}"] for name in NAMES)


def lines(lab: Lab, beginning: str) -> list[str]:
    """What the daemon's log says, from some words on."""
    text = (lab.nodes[0].home / "daemon.log").read_text()
    return [line[at:] for line in text.splitlines() if (at := line.find(beginning)) >= 0]


def told(lab: Lab, beginning: str) -> str:
    """The line that begins so."""
    lab.wait(lambda: bool(lines(lab, beginning)), 20, beginning)
    return lines(lab, beginning)[0]


def test_a_refused_connection_leads_to_pod_direction_port_and_policies(lab: Lab) -> None:
    """W30, pain 34."""
    friend, other, _, target = pods(lab)
    assert friend.reaches(target)
    assert not other.reaches(target)
    line = told(lab, f"Pod default/target: ingress from default/other ({other.ip}) to port 80/TCP")
    rest = r".* was refused: no rule of policies default/deny, default/friends allows it \(KUBE-POD-FW-[A-Z2-7]{16}\)"
    assert re.fullmatch(rest, line)
    assert not lines(lab, "Pod default/target: ingress from default/friend ")
    # A friend at another port is as unwelcome.
    assert not friend.reaches(target, port=81)
    assert told(
        lab, f"Pod default/target: ingress from default/friend ({friend.ip}) to port 81/TCP was refused: no rule"
    )


def test_what_a_pod_may_not_send_is_told_with_its_target(lab: Lab) -> None:
    _, other, confined, _ = pods(lab)
    assert not confined.reaches(other)
    line = told(lab, f"Pod default/confined: egress to default/other ({other.ip}) port 80/TCP was refused")
    assert ": no rule of policy default/confined allows it (KUBE-POD-FW-" in line


def test_who_borrows_an_address_is_named_by_the_link(lab: Lab) -> None:
    friend, other, _, target = pods(lab)
    with netns.inside(other.network), closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        sender.bind((friend.ip, 0))
        sender.sendto(b"hello", (target.ip, 5353))
    assert told(lab, "Pod default/other: what it sent from default/friend") == (
        f"Pod default/other: what it sent from default/friend ({friend.ip}) to default/target ({target.ip}) "
        "port 5353/UDP was dropped: that address is not the pod's own"
    )


def test_metrics_count_what_was_told(lab: Lab) -> None:
    page = lab.nodes[0].sh(f"curl -sS --fail -m 10 http://127.0.0.1:{PORT}/metrics")
    found = {
        (sample.name.removeprefix("kube_router_netpol_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert found["drop_log_up",] == 1
    assert found["logged_drops_total", "ingress", "policy"] >= 2
    assert found["logged_drops_total", "egress", "source"] == 1
    assert found["logged_drops_lost_total",] == 0
    assert found["pod_logged_drops_total", "default", "target", "ingress"] >= 2
    assert found["pod_logged_drops_total", "default", "other", "egress"] == 1


def test_who_reads_the_log_already_keeps_it_and_policy_is_none_the_worse(lab: Lab) -> None:
    friend, other, _, target = pods(lab)
    node = lab.nodes[0]
    node.stop_daemon()
    with nflog.listening(node.namespace) as log:
        node.start_daemon()
        lab.wait(lambda: lab.check_alive() and node.ready(), 40, "a ready daemon")
        assert told(lab, "NFLOG group 100: another program reads it, such as ulogd or tcpdump")
        assert friend.reaches(target)

        def logged() -> bool:
            assert not other.reaches(target)
            return log.find(lambda each: each.source == other.ip and each.prefix.endswith(" ingress"), 0.1) is not None

        lab.wait(logged, 20, "a record for the other program")
