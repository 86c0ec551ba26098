"""A pod that answers clients directly sends from the service address: policy lets answers through, and nothing else.

The pod may not send anything by itself. Nothing has come to it through a tunnel either, so its answers belong to no
flow that its node knows, as on a node that is not the director.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest

from tests.support.lab import Lab, netns

pytestmark = pytest.mark.root

VIP, OTHER_VIP = "10.255.0.1", "10.255.0.2"
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
SHOP = """
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: default
  annotations: {kube-router.io/service.dsr: tunnel}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  externalIPs: [10.255.0.1]
  selector: {app: web}
  ports:
  - {name: http, port: 80, protocol: TCP}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: confined, namespace: default}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}
"""
_ports = itertools.count(20000)


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The proxy runs as far as it can without IPVS: what it means for policy does not depend on that."""
    arguments = ["--run-router=false", "--strict-external-ip-validation=false"]
    arguments += ["--use-nftables-for-netpol"] if request.param == "nftables" else []
    with Lab(nodes=2, subnets=1, runtime=True, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.pod("web", "node1", labels={"app": "web"})
        lab.pod("client", "node1")
        lab.pod("far", "node2")
        web = lab.pods["default/web"]
        netns.configure(web.network, f"addr add {VIP}/32 dev lo", f"addr add {OTHER_VIP}/32 dev lo")
        for target in ("client", "far"):
            assert sends(lab, "web", target, OTHER_VIP, 80, SYN_ACK), "nothing keeps it from that yet"
        lab.start()
        lab.apply(SHOP)
        lab.wait(lambda: not sends(lab, "web", "client", OTHER_VIP, 80, SYN_ACK), 60, "policy in force")
        lab.wait(lambda: sends(lab, "web", "client", VIP, 80, SYN_ACK), 60, "answers let through")
        yield lab


class Segment(NamedTuple):
    """A TCP segment from an address and port; a UDP datagram where it has no flags."""

    address: str
    port: int
    flags: int


def sends(lab: Lab, source: str, target: str, address: str, port: int, flags: int) -> bool:
    """Whether a segment arrives at a pod."""
    return bool(arrive(lab, source, target, [Segment(address, port, flags)]))


def arrive(lab: Lab, source: str, target: str, segments: Sequence[Segment]) -> list[Segment]:
    """Which segments arrive at a pod, of several that are sent at the same time."""
    sender, receiver = (lab.pods[f"default/{name}"] for name in (source, target))
    sent = {next(_ports): segment for segment in segments}
    arrived: dict[int, Segment] = {}
    with ExitStack() as stack:
        with netns.inside(receiver.network):
            ears = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol))
                for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
            ]
        with netns.inside(sender.network):
            mouth = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        end = time.monotonic() + 0.6
        for number, segment in sent.items():
            packet = _packet(segment.address, receiver.ip, segment.port, number, segment.flags)
            with suppress(OSError):
                mouth.sendto(packet, (receiver.ip, 0))
        while len(arrived) < len(sent) and (left := end - time.monotonic()) > 0:
            for ear in select.select(ears, [], [], left)[0]:
                data = ear.recv(200)
                port, number = struct.unpack_from("!HH", data, (data[0] & 15) * 4)
                if number in sent and port == sent[number].port:
                    arrived[number] = sent[number]
    return list(arrived.values())


def _packet(source: str, target: str, port: int, to: int, flags: int) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    if flags:
        protocol, body = socket.IPPROTO_TCP, struct.pack("!HHIIBBHHH", port, to, 1, 1, 5 << 4, flags, 1000, 0, 0)
    else:
        protocol, body = socket.IPPROTO_UDP, struct.pack("!HHHH", port, to, 8, 0)
    checked = ends + struct.pack("!BBH", 0, protocol, len(body)) + body
    total = sum(struct.unpack(f"!{len(checked) // 2}H", checked))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at = 16 if flags else 6
    body = body[:at] + struct.pack("!H", ~total & 0xFFFF) + body[at + 2 :]
    # The kernel fills in length, number and checksum.
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, protocol, 0) + ends + body


@pytest.mark.parametrize("target", ["client", "far"])
def test_answers_from_the_ports_of_the_service_arrive(lab: Lab, target: str) -> None:
    answers = [Segment(VIP, 80, SYN_ACK), Segment(VIP, 80, ACK), Segment(VIP, 53, 0)]
    assert set(arrive(lab, "web", target, answers)) == set(answers)


@pytest.mark.parametrize("target", ["client", "far"])
def test_nothing_else_arrives(lab: Lab, target: str) -> None:
    own = lab.pods["default/web"].ip
    others = {
        Segment(VIP, 80, SYN): "what opens a flow is no answer",
        Segment(VIP, 81, SYN_ACK): "another port",
        Segment(VIP, 80, 0): "another protocol",
        Segment(OTHER_VIP, 80, SYN_ACK): "another address",
        Segment(own, 80, SYN): "its own address, under its policy",
    }
    assert [others[segment] for segment in arrive(lab, "web", target, list(others))] == []


def test_answers_are_no_longer_let_through_when_direct_return_ends(lab: Lab) -> None:
    plain = SHOP.replace("annotations: {kube-router.io/service.dsr: tunnel}", "annotations: {}")
    lab.apply(plain)
    lab.wait(lambda: not sends(lab, "web", "client", VIP, 80, SYN_ACK), 30, "answers are not let through")
    lab.apply(SHOP)
    lab.wait(lambda: sends(lab, "web", "client", VIP, 80, SYN_ACK), 30, "answers are let through again")
