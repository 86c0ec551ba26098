"""Ways around policy that a pod or its neighbours may try: borrowed source addresses, marks, host ports, the bridge."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.lab import Lab, netns
from tests.support.lab.pods import Pod
from tests.support.probes import Job, until

pytestmark = pytest.mark.root

IP_TRANSPARENT = 19
"""linux/in.h: send from any address."""
NODE_PORT = 30777
VIP = "10.96.0.50"
"""In the range of the cluster IPs, and an address of the first node, as IPVS needs it."""
_tokens = itertools.count(1)
POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: confined, namespace: default}
spec: {podSelector: {matchLabels: {app: confined}}, policyTypes: [Egress]}
"""


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false"]
    arguments += ["--use-nftables-for-netpol"] if request.param == "nftables" else []
    with Lab(nodes=2, subnets=1, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        for node in lab.nodes:
            node.sh("echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables")
        lab.node("node1").sh(f"ip addr add {VIP}/32 dev lo")
        lab.pod("free", "node1")
        lab.pod("confined", "node1", labels={"app": "confined"})
        lab.pod("closed", "node1", labels={"app": "closed"})
        lab.pod("target", "node1")
        lab.pod("far", "node2")
        yield lab


@pytest.fixture(scope="module")
def governed(lab: Lab) -> Lab:
    """The lab with daemons and policies in force; what is forbidden was possible before."""
    free, confined, closed, target = (lab.pods[f"default/{n}"] for n in ("free", "confined", "closed", "target"))
    assert arrives(free, closed, _bridge(lab))
    assert arrives(confined, target, free.ip)
    assert all(served(lab, confined, address) for address in (confined.ip, free.ip))
    assert confined.reaches(target)
    assert free.reaches(closed)
    lab.start()
    lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 40, "ready daemons")
    lab.apply(POLICIES)
    for source, job in ((free, closed.job()), (confined, target.job())):
        assert until(source.prober, job, lambda result: not result.allowed) is not None
    assert free.reaches(target)
    return lab


def _bridge(lab: Lab) -> str:
    """Address of the first node's bridge, which is its pods' gateway."""
    network = lab.node("node1").site.pod_cidrs[0].split("/")[0]
    return network.rsplit(".", 1)[0] + ".1"


def arrives(source: Pod, target: Pod, address: str) -> bool:
    """Whether a datagram that `source` sends from any `address` gets to `target`."""
    return _gets(source, address, target.network, target.ip)


def served(lab: Lab, source: Pod, address: str) -> bool:
    """Whether it gets to a Service."""
    return _gets(source, address, lab.node("node1").namespace, VIP)


def _gets(source: Pod, address: str, network: str, target: str, port: int = 5353) -> bool:
    token = f"token {next(_tokens)}".encode()
    with netns.inside(network):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with netns.inside(source.network):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((target, port))
        sender.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        sender.bind((address, 0))
        end = time.monotonic() + 0.6
        with suppress(OSError):
            sender.sendto(token, (target, port))
        while (left := end - time.monotonic()) > 0:
            receiver.settimeout(left)
            with suppress(TimeoutError):
                if receiver.recv(100) == token:
                    return True
    return False


@pytest.mark.parametrize("whose", ["node", "bridge", "target", "elsewhere"])
def test_a_borrowed_source_address_opens_no_closed_pod(governed: Lab, whose: str) -> None:
    """W9: only what the node itself sends is the node's, wherever an address says otherwise."""
    pods = governed.pods
    assert not arrives(pods["default/free"], pods["default/closed"], _address(governed, whose))


@pytest.mark.parametrize("whose", ["node", "bridge", "free", "elsewhere"])
def test_a_confined_pod_does_not_get_out_under_another_address(governed: Lab, whose: str) -> None:
    """W10: a pod is bound to its link, not only to its address."""
    pods = governed.pods
    for target in ("target", "far"):
        assert not arrives(pods["default/confined"], pods[f"default/{target}"], _address(governed, whose)), target


@pytest.mark.parametrize("whose", ["target", "elsewhere"])
def test_a_confined_pod_does_not_get_to_a_service_under_another_address(governed: Lab, whose: str) -> None:
    """W10: policy leaves services to be judged behind IPVS, where nobody knows any more whose packet it is."""
    confined, free = governed.pods["default/confined"], governed.pods["default/free"]
    assert not served(governed, confined, _address(governed, whose))
    assert served(governed, confined, confined.ip), "traffic to services is judged by their endpoints"
    assert served(governed, free, free.ip)
    assert not served(governed, free, confined.ip)


def _address(lab: Lab, whose: str) -> str:
    if whose in ("node", "bridge"):
        return lab.node("node1").ip if whose == "node" else _bridge(lab)
    return "198.51.100.9" if whose == "elsewhere" else lab.pods[f"default/{whose}"].ip


def test_a_mark_that_a_packet_brings_along_counts_for_nothing(governed: Lab) -> None:
    """W11: a verdict of before is none."""
    node = governed.node("node1")
    free, closed = governed.pods["default/free"], governed.pods["default/closed"]
    node.sh("iptables -t mangle -I PREROUTING -j MARK --set-mark 0x30000")
    try:
        assert not free.reaches(closed)
        assert not free.reaches(closed, 80, "udp")
        assert not arrives(free, closed, free.ip)
        assert free.reaches(governed.pods["default/target"])
    finally:
        node.sh("iptables -t mangle -D PREROUTING -j MARK --set-mark 0x30000")


def test_a_listener_of_the_host_in_the_node_port_range_is_judged_as_any_other(governed: Lab) -> None:
    """W20: only ports that a Service has are left to the proxy."""
    node = governed.node("node1")
    with netns.inside(node.namespace):
        listener = socket.create_server((node.ip, NODE_PORT))
    with listener:
        job = Job("tcp", node.ip, NODE_PORT)
        confined, free = governed.pods["default/confined"], governed.pods["default/free"]
        with netns.inside(free.network):
            socket.create_connection((node.ip, NODE_PORT), 2).close()
        assert confined.prober.probe([job])[0].outcome.value == "refused"


def test_the_firewall_alone_has_bridged_packets_filtered(governed: Lab) -> None:
    """W16: whichever other controllers run."""
    for node in governed.nodes:
        assert node.sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables").strip() == "1"
