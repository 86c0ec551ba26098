"""A node of which no IPv6 address is told, for a moment or from the start: its pods stay under their policies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, objects
from tests.support.probes import Job, until

pytestmark = pytest.mark.root
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: default}
spec:
  podSelector: {matchLabels: {app: closed}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
"""


@pytest.fixture(scope="module", params=[False, True], ids=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false", f"--use-nftables-for-netpol={request.param}"]
    with Lab(nodes=1, subnets=1, families=(4, 6), daemon_arguments=[word.lower() for word in arguments]) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("other", "node1")
        lab.pod("target", "node1", labels={"app": "closed"})
        yield lab


def events(lab: Lab) -> list[str]:
    """What was told of the Node."""
    with lab.api.store.lock:
        found = list(lab.api.store.objects["events"].values())
    return [event["message"] for event in found if event["involvedObject"]["kind"] == "Node"]


def without_ipv6(lab: Lab) -> objects.Object:
    """The Node with addresses of IPv4 only."""
    node = objects.node(lab.nodes[0].site, (4, 6), {})
    status = objects.node(lab.nodes[0].site, (4,), {})["status"]
    return {**node, "status": status}


def test_pods_stay_under_policy_without_an_ipv6_address_of_the_node(lab: Lab) -> None:
    friend, other, target = (lab.pods[f"default/{name}"] for name in ("friend", "other", "target"))
    jobs = [Job("tcp", address, 80) for address in target.ips]
    assert [":" in job.address for job in jobs] == [False, True]
    assert all(result.allowed for result in other.prober.probe(jobs))
    lab.apply(POLICY)
    for job in jobs:
        assert until(other.prober, job, lambda result: not result.allowed) is not None
        assert until(friend.prober, job, lambda result: result.allowed) is not None
    for job in jobs:
        friend.prober.stream(f"open {job.address}", job, rate=50)
        other.prober.stream(f"closed {job.address}", job, rate=50)
    lab.apply(without_ipv6(lab))
    lab.wait(lambda: any("has no IPv6 address" in text for text in events(lab)), 20, "an Event on the Node")
    sent = friend.prober.report(f"open {jobs[1].address}").sent
    lab.wait(lambda: friend.prober.report(f"open {jobs[1].address}").sent > sent + 50, 20, "probes meanwhile")
    # A start that finds the Node so: nothing of IPv6 is taken for left behind, and a change still gets there.
    lab.nodes[0].restart_daemon()
    lab.wait(lambda: lab.nodes[0].ready(), 40, "the daemon ready")
    for job in jobs:
        assert friend.prober.stop_stream(f"open {job.address}").lost == 0
        assert other.prober.stop_stream(f"closed {job.address}").allowed == 0
    lab.delete("NetworkPolicy", "default", "friends")
    for job in jobs:
        assert until(other.prober, job, lambda result: result.allowed) is not None
