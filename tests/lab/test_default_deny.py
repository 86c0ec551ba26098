"""`--netpol-default-deny`: a pod that the API has not shown yet can neither speak nor be spoken to."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator

import pytest

from tests.support.lab import Lab, netns
from tests.support.lab.pods import Pod
from tests.support.probes import Job, Outcome, until

pytestmark = pytest.mark.root
CLOSED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: default}
spec:
  podSelector: {matchLabels: {app: closed}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
"""


@pytest.fixture(scope="module", params=["false", "true"], ids=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false", "--netpol-default-deny", "--enable-ipv6"]
    arguments.append(f"--use-nftables-for-netpol={request.param}")
    with Lab(nodes=2, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 40, "ready daemons")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("near", "node1")
        lab.pod("far", "node2")
        for source, target in (("near", "friend"), ("far", "near"), ("near", "far")):
            for ip in lab.pods[f"default/{target}"].ips:
                prober = lab.pods[f"default/{source}"].prober
                assert until(prober, Job("tcp", ip, 80), lambda result: result.allowed) is not None
        yield lab


@pytest.fixture
def newcomer(lab: Lab) -> Iterator[Pod]:
    """A pod that runs on node1 and of which the API knows nothing."""
    pod = Pod("new", "default", "node1", f"{lab.prefix}-pod-default-new", {"app": "closed"})
    pod.ports = (("tcp", 80, "http"), ("udp", 80, "dns"))
    netns.add(pod.network)
    lab.pods[pod.key] = pod
    pod.ips = lab.node("node1").attacher.add(pod.network, pod.network)
    pod.start()
    yield pod
    lab.delete("NetworkPolicy", "default", "friends")
    lab.remove_pod(pod)


def connects(namespace: str, address: str, port: int) -> bool:
    """Whether TCP from a namespace to an address succeeds within a second."""
    with netns.inside(namespace):
        try:
            socket.create_connection((address, port), 1.0).close()
        except OSError:
            return False
    return True


def dropped(source: Pod, addresses: Iterable[str]) -> bool:
    """Whether every path from a pod to these addresses is silent."""
    jobs = [Job(protocol, address, 80) for address in addresses for protocol in ("tcp", "udp")]
    return {result.outcome for result in source.prober.probe(jobs)} == {Outcome.DROPPED}


def test_a_pod_is_cut_off_until_the_api_shows_it_and_nothing_is_refused_meanwhile(lab: Lab, newcomer: Pod) -> None:
    """W12, W13, pain 31: the kubelet's probes arrive meanwhile."""
    near, far = lab.pods["default/near"], lab.pods["default/far"]
    assert dropped(newcomer, (*near.ips, *far.ips))
    assert dropped(near, newcomer.ips)
    assert dropped(far, newcomer.ips)
    for ip in newcomer.ips:
        assert connects(lab.node("node1").namespace, ip, 80), "the kubelet's probes reach it"
    ticket = newcomer.prober.send([Job("tcp", ip, 80) for ip in (*near.ips, *far.ips)], 10.0)
    lab.update(newcomer)
    assert all(result.allowed for result in newcomer.prober.results(ticket)), "who waits gets through"
    for mine in newcomer.ips:
        assert far.prober.try_one("tcp", mine, 80).allowed


def test_a_new_pod_is_never_open_to_whom_its_policy_closes_it(lab: Lab, newcomer: Pod) -> None:
    """W12, pod_first_packet."""
    friend, near = lab.pods["default/friend"], lab.pods["default/near"]
    for number, ip in enumerate(newcomer.ips):
        near.prober.stream(f"closed{number}", Job("tcp", ip, 80), rate=200)
    lab.apply(CLOSED)
    lab.update(newcomer)
    for ip in newcomer.ips:
        assert until(friend.prober, Job("tcp", ip, 80), lambda result: result.allowed) is not None
    sent = near.prober.report("closed0").sent
    lab.wait(lambda: near.prober.report("closed0").sent > sent + 50, 10, "probes after the policy")
    for number in range(len(newcomer.ips)):
        report = near.prober.stop_stream(f"closed{number}")
        assert report.sent > 20
        assert report.allowed == 0


def test_the_node_and_its_gateway_address_are_nobody_new(lab: Lab) -> None:
    """W13: an address of the pod CIDR that is the bridge's."""
    node, near = lab.node("node1"), lab.pods["default/near"]
    gateways = [line.split()[3].split("/")[0] for line in node.sh("ip -o addr show dev kube-bridge").splitlines()]
    assert len([g for g in gateways if not g.startswith("fe80")]) == 2
    for gateway in gateways:
        if not gateway.startswith("fe80"):
            assert connects(node.namespace, gateway, 20244), "the node speaks to itself"
            assert connects(near.network, gateway, 20244), "a known pod speaks to its gateway"


def test_a_restart_opens_nothing_to_an_unknown_pod_and_loses_nothing_of_a_known_one(lab: Lab, newcomer: Pod) -> None:
    node, near, friend = lab.node("node1"), lab.pods["default/near"], lab.pods["default/friend"]
    newcomer.prober.stream("unknown", near.job(), rate=100)
    friend.prober.stream("known", near.job(), rate=100)
    node.kill_daemon()
    node.start_daemon()
    lab.wait(lambda: node.ready(), 40, "the daemon ready")
    sent = friend.prober.report("known").sent
    lab.wait(lambda: friend.prober.report("known").sent > sent + 100, 10, "probes after the restart")
    unknown, known = newcomer.prober.stop_stream("unknown"), friend.prober.stop_stream("known")
    assert (unknown.allowed, known.lost) == (0, 0)


def test_an_address_whose_pod_has_finished_is_nobodys_again(lab: Lab, newcomer: Pod) -> None:
    near = lab.pods["default/near"]
    lab.update(newcomer)
    assert until(newcomer.prober, near.job(), lambda result: result.allowed) is not None
    lab.delete("Pod", "default", "new")
    started = time.monotonic()
    assert until(newcomer.prober, near.job(), lambda result: result.outcome is Outcome.DROPPED) is not None
    assert time.monotonic() - started < 30
