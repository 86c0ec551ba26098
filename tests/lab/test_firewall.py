"""The firewall controller in a lab whose routes are static: policies and restarts as packets see them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab
from tests.support.probes import until

pytestmark = pytest.mark.root
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
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]
"""


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false"]
    arguments += ["--use-nftables-for-netpol"] if request.param == "nftables" else []
    with Lab(nodes=2, subnets=1, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 40, "ready daemons")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("other", "node1")
        lab.pod("target", "node2", labels={"app": "closed"})
        yield lab


def test_policy_closes_then_opens_for_whom_it_names(lab: Lab) -> None:
    friend, other, target = (lab.pods[f"default/{name}"] for name in ("friend", "other", "target"))
    assert friend.reaches(target)
    assert other.reaches(target)
    lab.apply(DENY)
    for source in (friend, other):
        assert until(source.prober, target.job(), lambda result: not result.allowed) is not None
    lab.apply(ALLOW)
    assert until(friend.prober, target.job(), lambda result: result.allowed) is not None
    assert not other.reaches(target)
    assert not friend.reaches(target, 80, "udp")
    other.labels = {"role": "friend"}
    lab.update(other)
    assert until(other.prober, target.job(), lambda result: result.allowed) is not None
    other.labels = {}
    lab.update(other)
    assert until(other.prober, target.job(), lambda result: not result.allowed) is not None
    lab.delete("NetworkPolicy", "default", "allow")
    assert until(friend.prober, target.job(), lambda result: not result.allowed) is not None
    lab.delete("NetworkPolicy", "default", "deny")
    assert until(other.prober, target.job(), lambda result: result.allowed) is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_loses_and_leaks_nothing(lab: Lab, number: signal.Signals) -> None:
    """W14, startup_keeps_policy."""
    friend, other, target = (lab.pods[f"default/{name}"] for name in ("friend", "other", "target"))
    node = lab.node("node2")
    lab.apply(DENY)
    lab.apply(ALLOW)
    assert until(other.prober, target.job(), lambda result: not result.allowed) is not None
    assert until(friend.prober, target.job(), lambda result: result.allowed) is not None
    friend.prober.stream("open", target.job(), rate=100)
    other.prober.stream("closed", target.job(), rate=100)
    status = node.stop_daemon(number)
    assert status == (0 if number is signal.SIGTERM else -9)
    lab.wait(lambda: friend.prober.report("open").sent > 50, 10, "probes without a daemon")
    node.start_daemon()
    lab.wait(lambda: node.ready(), 40, "the daemon ready")
    before = friend.prober.report("open").sent
    lab.wait(lambda: friend.prober.report("open").sent > before + 150, 10, "probes after the restart")
    open_path, closed_path = friend.prober.stop_stream("open"), other.prober.stop_stream("closed")
    lab.delete("NetworkPolicy", "default", "allow")
    lab.delete("NetworkPolicy", "default", "deny")
    assert (open_path.lost, closed_path.allowed) == (0, 0)
    assert until(other.prober, target.job(), lambda result: result.allowed) is not None
