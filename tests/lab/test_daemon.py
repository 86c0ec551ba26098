"""The whole daemon on every node of a lab: routes, tunnels and sessions as packets see them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.test_firewall import DENY
from tests.support.lab import Lab, Node, objects
from tests.support.probes import Job, Outcome, until

pytestmark = pytest.mark.root


def started(lab: Lab) -> Lab:
    """Start the daemons and wait until pods can be attached and nodes have each other's routes."""
    lab.start()
    lab.wait(lambda: lab.check_alive() and all(node.cni_ready() for node in lab.nodes), 40, "CNI configurations")
    lab.wait(lambda: all(routes(lab, node) for node in lab.nodes), 60, "routes")
    return lab


def routes(lab: Lab, node: Node) -> bool:
    """Whether a node has routes to all other nodes' pod CIDRs."""
    table = node.sh("ip route show proto 17")
    return all(other.site.pod_cidrs[0] in table for other in lab.nodes if other is not node)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(nodes=2, subnets=1) as lab:
        started(lab)
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("other", "node1")
        lab.pod("target", "node2", labels={"app": "closed"})
        yield lab


def test_same_subnet_pods_meet_over_learnt_routes(lab: Lab) -> None:
    friend, target = lab.pods["default/friend"], lab.pods["default/target"]
    assert f"via {lab.node('node2').ip} dev eth0" in lab.node("node1").sh("ip route show 10.244.2.0/24 proto 17")
    for protocol in ("tcp", "udp", "icmp"):
        assert until(friend.prober, friend_job(target.ip, protocol), lambda result: result.allowed) is not None
    assert friend.probe(target).peer == friend.ip


def friend_job(address: str, protocol: str) -> Job:
    """Port 80, or none for ICMP."""
    return Job(protocol, address, 0 if protocol == "icmp" else 80)


def test_gobgp_answers_operators_and_sessions_are_up(lab: Lab) -> None:
    neighbours = lab.node("node1").gobgp("neighbor")
    assert lab.node("node2").ip in neighbours
    assert "Establ" in neighbours


def test_pods_leave_the_cluster_with_the_node_address(lab: Lab) -> None:
    lab.outside.serve([("tcp", 9000)])
    result = lab.pods["default/friend"].probe(lab.outside_ip, 9000)
    lab.outside.unserve([("tcp", 9000)])
    assert (result.outcome, result.peer) == (Outcome.ALLOWED, lab.node("node1").ip)


def test_an_annotation_is_done_at_once_and_a_mistake_in_it_is_told_on_the_node(lab: Lab) -> None:
    """Pain 17, from the API to gobgpd: nothing is restarted, and no session ends."""
    node, other = lab.node("node1"), lab.node("node2").ip

    def say(peers: str) -> None:
        lab.apply(objects.node(node.site, lab.families, {"kube-router.io/peers": peers}))

    def messages() -> list[str]:
        with lab.api.store.lock:
            found = list(lab.api.store.objects["events"].values())
        return [event["message"] for event in found if event["involvedObject"]["name"] == node.name]

    def sessions() -> dict[str, object]:
        found = json.loads(node.gobgp("neighbor -j"))
        return {peer["conf"]["neighbor_address"]: peer["timers"]["state"].get("uptime") for peer in found}

    before = sessions()[other]
    say("- {remoteip: 10.255.0.9, remoteasn: 65001, password: aHVzaA==}")
    lab.wait(lambda: "10.255.0.9" in sessions(), 10, "the peer")
    say("- {remoteip: 10.255.0.9, remoteasn: 0, password: aHVzaA==}")
    lab.wait(lambda: any("[0].remoteasn: '0'" in text for text in messages()), 10, "an Event on the Node")
    (said,) = (text for text in messages() if "kube-router.io/peers" in text)
    assert said.endswith("the last good value stays")
    assert set(sessions()) == {other, "10.255.0.9"}
    say("")
    lab.wait(lambda: set(sessions()) == {other}, 10, "end of the peer")
    assert sessions()[other] == before
    logs = "".join((node.home / name).read_text() for name in ("daemon.log", "gobgpd.log"))
    assert not [word for word in ("hush", "aHVzaA") if word in said + logs]


@pytest.mark.ipip
def test_other_subnets_are_reached_through_tunnels() -> None:
    with Lab(nodes=3, subnets=2, manifests=True) as lab:
        started(lab)
        near, next_door, far = (lab.pod(f"p{number}", f"node{number}") for number in (1, 2, 3))
        assert until(near.prober, far.job(), lambda result: result.allowed) is not None
        assert until(near.prober, next_door.job(), lambda result: result.allowed) is not None
        assert " dev tun-" in lab.node("node1").sh(f"ip route get {far.ip}")
        assert " dev eth0" in lab.node("node1").sh(f"ip route get {next_door.ip}")
        assert near.probe(far).peer == near.ip


def test_a_node_without_a_cluster_reads_manifests() -> None:
    with Lab(nodes=2, subnets=1, manifests=True) as lab:
        started(lab)
        a, b = lab.pod("a", "node1"), lab.pod("b", "node2", labels={"app": "closed"})
        assert until(a.prober, b.job(), lambda result: result.allowed) is not None
        lab.apply(DENY)
        assert until(a.prober, b.job(), lambda result: not result.allowed) is not None
