"""Pods that send from before they have a network: nothing leaks, and how long it takes until what is allowed works."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.support.lab import Lab, netns
from tests.support.lab.pods import Pod
from tests.support.probes import Job

pytestmark = pytest.mark.root
PODS = 4
BOUND = 0.1
"""Seconds that a probe waits: short-lived ones, so that each tells of its own moment."""
STALL = 5.0
"""Seconds that a probe waits which nothing may keep any more: a machine that stands still for a while is no loss."""
MODES = {
    "iptables-nft": "--iptables-mode=nft",
    "iptables-legacy": "--iptables-mode=legacy",
    "nftables": "--use-nftables-for-netpol",
}
"""A flag by mode."""
EGRESS = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: early, namespace: default}
spec:
  podSelector: {matchLabels: {app: early}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {role: open}}}]}]
"""


@pytest.fixture(scope="module", params=list(MODES))
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false", "--netpol-default-deny", MODES[request.param]]
    with Lab(nodes=1, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "the daemon ready")
        lab.pod("open", "node1", labels={"role": "open"})
        lab.pod("shut", "node1")
        lab.apply(EGRESS)
        lab.wait(lambda: all(lab.nodes[0].in_force(f"default/{name}") for name in ("open", "shut")), 40, "policy")
        yield lab


def _probe(pod: Pod, target: Pod, word: str, bound: float) -> list[str]:
    """Start to probe a pod in both families; the names of the streams."""
    names = [f"{word} {target.name} {address}" for address in target.ips]
    for name, address in zip(names, target.ips, strict=True):
        pod.prober.stream(name, Job("udp", address, 80), rate=100, bound=bound)
    return names


def _passed(pod: Pod, names: list[str]) -> bool:
    return all(pod.prober.report(name).allowed > 20 for name in names)


def test_the_first_packets_of_a_pod_go_where_policy_lets_them(lab: Lab, tell: Callable[[str], None]) -> None:
    """W12, pain 31, pod_first_packet: with real CNI, from before the pod has an address."""
    took: list[tuple[float, float, float]] = []
    node, (opened, shut) = lab.nodes[0], (lab.pods[f"default/{name}"] for name in ("open", "shut"))
    for number in range(PODS):
        pod = Pod(f"early-{number}", "default", "node1", f"{lab.prefix}-pod-early-{number}", {"app": "early"})
        netns.add(pod.network)
        lab.pods[pod.key] = pod
        pod.start()
        pod.prober.wait_ready()
        early = _probe(pod, opened, "early", BOUND)
        closed = _probe(pod, shut, "early", BOUND)
        added = time.monotonic()
        pod.ips = node.attacher.add(pod.network, pod.network)
        attached = time.monotonic()
        lab.update(pod)
        lab.wait(partial(node.in_force, pod.key, "default/early"), 20, "policy in force")
        said = time.monotonic()
        # From now on nothing that is allowed may be lost, and what came before tells when that began.
        later = _probe(pod, opened, "later", STALL)
        lab.wait(partial(_passed, pod, [*early, *later]), 20, "allowed packets")
        refused = [pod.prober.stop_stream(name) for name in closed]
        assert [report.allowed for report in refused] == [0, 0]
        assert all(report.sent > 20 for report in refused)
        assert [pod.prober.stop_stream(name, STALL).lost for name in later] == [0, 0]
        lost = [moment for name in early for moment in pod.prober.stop_stream(name).lost_at]
        last = max(lost, default=added)
        took.append((attached - added, last - added, said - added))
    add, force, told = (statistics.median(column) * 1000 for column in zip(*took, strict=True))
    worst = max(force for _, force, _ in took) * 1000
    tell(
        f"first packet: CNI ADD takes {add:.0f} ms, from its start policy is in force within {force:.0f} ms "
        f"(median of {PODS} pods, at most {worst:.0f} ms), and is said to be within {told:.0f} ms"
    )
