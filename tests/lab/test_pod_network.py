"""A node's first start, beside what the Go kube-router left: when pods may start, and in what network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import original
from tests.support.lab import Lab, objects
from tests.support.lab.node import Node
from tests.support.probes import Outcome

pytestmark = pytest.mark.root
METRICS_PORT = 9464


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One node with policies and routes, whose CNI file nobody has written."""
    arguments = ["--run-service-proxy=false", "--iptables-mode=nft", f"--metrics-port={METRICS_PORT}"]
    with Lab(nodes=1, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        node = lab.nodes[0]
        node.cni_file.unlink()
        for command, text in original.egress():
            node.sh(f"{command} <<'END'\n{text}END")
        lab.start()
        yield lab


def cni(node: Node) -> dict[str, object]:
    """The bridge plugin's configuration."""
    plugin = json.loads(node.cni_file.read_text())["plugins"][0]
    assert isinstance(plugin, dict)
    return plugin


def test_the_configuration_is_there_once_what_pods_need_stands(lab: Lab) -> None:
    """pain 25: written late, or before the node was ready. What was there of the Go kube-router goes."""
    node = lab.nodes[0]
    lab.wait(lambda: lab.check_alive() and node.cni_file.exists(), 40, "the CNI configuration")
    rules = "".join(node.sh(f"{tool}-nft-save") for tool in ("iptables", "ip6tables"))
    assert rules.count("-j KUBE-ROUTER-FORWARD") == 2
    assert sum("kube-router:" in line and "MASQUERADE" in line for line in rules.splitlines()) == 2
    assert "mtu 1452" in node.sh("ip link show kube-bridge")
    assert f"from {node.site.pod_cidrs[0]} lookup 77" in node.sh("ip rule")
    found = cni(node)
    assert (found["mtu"], found["hairpinMode"]) == (1452, True)
    lab.wait(node.ready, 20, "a ready daemon")
    lab.wait(lambda: not theirs(node), 10, "an end of what the Go kube-router left")


def theirs(node: Node) -> list[str]:
    """Rules that only the Go kube-router writes."""
    tools = [f"{tool}-{variant}-save" for tool in ("iptables", "ip6tables") for variant in ("nft", "legacy")]
    lines = [line for tool in tools for line in node.sh(tool).splitlines()]
    return [line for line in lines if "traffic" in line or ("MASQUERADE" in line and "kube-router:" not in line)]


def test_pods_speak_from_the_nodes_address_and_can_reach_themselves_through_the_bridge(lab: Lab) -> None:
    node, pod = lab.nodes[0], lab.pod("web", "node1")
    lab.outside.serve([("tcp", 9000)])
    result = pod.probe(lab.outside_ip, 9000)
    lab.outside.unserve([("tcp", 9000)])
    assert (result.outcome, result.peer) == (Outcome.ALLOWED, node.ip)
    ports = json.loads(node.sh("bridge -j -d link show"))
    assert [port["hairpin"] for port in ports if port["master"] == "kube-bridge"] == [True]


def test_another_mtu_of_the_uplink_is_that_of_new_pods_and_the_others_keep_theirs(lab: Lab) -> None:
    node = lab.nodes[0]
    (old,) = lab.pods.values()
    before = node.cni_file.stat().st_ino
    node.restart_daemon()
    lab.wait(node.ready, 40, "a ready daemon")
    assert node.cni_file.stat().st_ino == before, "what it should say is not written again"
    node.sh("ip link set eth0 mtu 1400")
    lab.wait(lambda: cni(node)["mtu"] == 1352, 10, "the MTU of new pods")
    assert "mtu 1352" in node.sh("ip link show kube-bridge")
    new = lab.pod("new", "node1")
    assert [mtu(node, pod.network) for pod in (old, new)] == [1452, 1352]
    assert old.reaches(new)


def mtu(node: Node, namespace: str) -> int:
    """Of a pod's link."""
    (link,) = json.loads(node.sh(f"ip -j -n {namespace} link show eth0"))
    return int(link["mtu"])


def test_a_cloud_that_cannot_be_asked_is_told_on_the_node_and_everything_else_goes_on(lab: Lab) -> None:
    """Nobody answers for EC2 here, and its SDK need not be installed."""
    node = lab.nodes[0]
    made = objects.node(node.site, lab.families, {})
    spec = made["spec"]
    assert isinstance(spec, dict)
    lab.apply({**made, "spec": {**spec, "providerID": "aws:///eu-central-1a/i-0123456789abcdef0"}})

    def told() -> list[str]:
        with lab.api.store.lock:
            found = list(lab.api.store.objects["events"].values())
        return [each["message"] for each in found if each["involvedObject"]["name"] == node.name]

    lab.wait(lambda: any("NoSourceCheck: i-0123456789abcdef0" in text for text in told()), 30, "an Event on the Node")
    shown = node.sh(f"curl -sS http://127.0.0.1:{METRICS_PORT}/metrics")
    (line,) = (line for line in shown.splitlines() if "operation_errors" in line and "NoSourceCheck" in line)
    assert float(line.split()[-1]) >= 1
    assert node.ready(), node.readyz()
