"""Pods that send from before they have a network: nothing leaks, and how long it takes until what is allowed works."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.support.lab import Lab, netns
from tests.support.lab.pods import Pod
from tests.support.probes import until

pytestmark = pytest.mark.root
PODS = 8
EGRESS = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: early, namespace: default}
spec:
  podSelector: {matchLabels: {app: early}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {role: open}}}]}]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false", "--netpol-default-deny"]
    with Lab(nodes=1, subnets=1, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "the daemon ready")
        lab.pod("open", "node1", labels={"role": "open"})
        lab.pod("shut", "node1")
        lab.apply(EGRESS)
        shut = lab.pods["default/shut"].job()
        assert until(lab.pods["default/open"].prober, shut, lambda result: result.allowed) is not None
        yield lab


def _passed(pod: Pod, count: int) -> bool:
    return pod.prober.report("open").allowed > count


def test_the_first_packets_of_a_pod_go_where_policy_lets_them(lab: Lab, tell: Callable[[str], None]) -> None:
    """W12, pain 31, pod_first_packet: with real CNI, from before the pod has an address."""
    took: list[tuple[float, float]] = []
    for number in range(PODS):
        pod = Pod(f"early-{number}", "default", "node1", f"{lab.prefix}-pod-early-{number}", {"app": "early"})
        netns.add(pod.network)
        lab.pods[pod.key] = pod
        pod.start()
        pod.prober.wait_ready()
        for name, target in (("open", "default/open"), ("shut", "default/shut")):
            # Short-lived probes, so that each tells of its own moment.
            pod.prober.stream(name, lab.pods[target].job(80, "udp"), rate=200, bound=0.1)
        added = time.monotonic()
        pod.ips = lab.node("node1").attacher.add(pod.network, pod.network)
        attached = time.monotonic()
        lab.update(pod)
        lab.wait(partial(_passed, pod, 20), 20, "allowed packets")
        opened, shut = pod.prober.stop_stream("open"), pod.prober.stop_stream("shut")
        assert shut.allowed == 0
        assert shut.sent > 20
        # Losses end with the moment in which policy is in force; from then on nothing is lost.
        took.append((attached - added, max(opened.lost_at, default=added) - added))
    add, force = (statistics.median(column) * 1000 for column in zip(*took, strict=True))
    worst = max(force for _, force in took) * 1000
    tell(
        f"first packet: CNI ADD takes {add:.0f} ms, from its start policy is in force within {force:.0f} ms "
        f"(median of {PODS} pods, at most {worst:.0f} ms)"
    )
