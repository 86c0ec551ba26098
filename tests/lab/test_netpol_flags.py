"""Flags of the firewall as packets see them: another iptables, namespaces isolated by annotation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lab import Lab
from tests.support.probes import until

pytestmark = pytest.mark.root
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: default}
spec:
  podSelector: {matchLabels: {app: closed}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
"""
ISOLATED = """
apiVersion: v1
kind: Namespace
metadata:
  name: default
  annotations: {net.beta.kubernetes.io/network-policy: '{"ingress":{"isolation":"DefaultDeny"}}'}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false", "--iptables-mode=nft"]
    with Lab(nodes=1, subnets=1, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("other", "node1")
        lab.pod("target", "node1", labels={"app": "closed"})
        yield lab


def restart(lab: Lab, *words: str) -> None:
    """Start the daemon anew with these arguments at the end."""
    node = lab.nodes[0]
    node.stop_daemon()
    node.daemon_arguments += words
    node.start_daemon()
    lab.wait(lambda: node.ready(), 40, "the daemon ready")


def ours(lab: Lab, tool: str) -> list[str]:
    """Our lines in what a save tool prints."""
    return [line for line in lab.nodes[0].sh(f"{tool}-save").splitlines() if "KUBE-" in line]


def test_a_change_of_iptables_leaves_nothing_behind_and_opens_nothing(lab: Lab) -> None:
    friend, other, target = (lab.pods[f"default/{name}"] for name in ("friend", "other", "target"))
    lab.apply(POLICY)
    assert until(other.prober, target.job(), lambda result: not result.allowed) is not None
    assert ours(lab, "iptables-nft")
    friend.prober.stream("open", target.job(), rate=100)
    other.prober.stream("closed", target.job(), rate=100)
    for mode, used, aside in (
        ("legacy", "iptables-legacy", "iptables-nft"),
        ("nft", "iptables-nft", "iptables-legacy"),
    ):
        restart(lab, f"--iptables-mode={mode}")
        lab.wait(lambda aside=aside: not ours(lab, aside), 20, "the former rules gone")
        assert ours(lab, used)
        sent = friend.prober.report("open").sent
        lab.wait(lambda sent=sent: friend.prober.report("open").sent > sent + 100, 10, "probes after the change")
    open_path, closed_path = friend.prober.stop_stream("open"), other.prober.stop_stream("closed")
    lab.delete("NetworkPolicy", "default", "friends")
    assert (open_path.lost, closed_path.allowed) == (0, 0)
    assert until(other.prober, target.job(), lambda result: result.allowed) is not None


def test_an_isolated_namespace_closes_only_with_its_flag(lab: Lab) -> None:
    friend, other, target = (lab.pods[f"default/{name}"] for name in ("friend", "other", "target"))

    def events() -> list[str]:
        with lab.api.store.lock:
            found = list(lab.api.store.objects["events"].values())
        return [event["message"] for event in found if event["involvedObject"]["kind"] == "Namespace"]

    lab.apply(ISOLATED)
    lab.wait(events, 20, "an Event on the namespace")
    assert "--netpol-namespace-annotation" in events()[0]
    assert other.reaches(target)
    restart(lab, "--netpol-namespace-annotation")
    assert until(other.prober, target.job(), lambda result: not result.allowed) is not None
    assert not target.reaches(other)
    lab.apply(POLICY)
    assert until(friend.prober, target.job(), lambda result: result.allowed) is not None
    assert not other.reaches(target)
    lab.delete("NetworkPolicy", "default", "friends")
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    assert until(other.prober, target.job(), lambda result: result.allowed) is not None
