"""From one backend of the firewall to the other and back: one restart, nothing left, nothing open meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.test_firewall import ALLOW, DENY
from tests.support.lab import Lab
from tests.support.lab.node import Node
from tests.support.probes import until

pytestmark = pytest.mark.root
FLAG = "--use-nftables-for-netpol"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false"]
    with Lab(nodes=1, subnets=1, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("other", "node1")
        lab.pod("target", "node1", labels={"app": "closed"})
        yield lab


def left(node: Node) -> dict[str, int]:
    """Lines of ours per backend."""
    rules = [line for tool in ("iptables", "ip6tables") for line in node.sh(f"{tool}-save").splitlines()]
    sets = node.sh("ipset list -n").splitlines()
    tables = node.sh("nft list tables").splitlines()
    return {
        "iptables": sum("KUBE-" in line for line in (*rules, *sets)),
        "nftables": sum("kube-router-filter" in line for line in tables),
    }


@pytest.mark.parametrize(("former", "backend"), [("iptables", "nftables"), ("nftables", "iptables")])
def test_a_switch_takes_one_restart_and_opens_nothing(lab: Lab, former: str, backend: str) -> None:
    """W14, W23: the former backend goes, whole, once the new one stands."""
    friend, other, target = (lab.pods[f"default/{name}"] for name in ("friend", "other", "target"))
    node = lab.nodes[0]
    lab.apply(DENY)
    lab.apply(ALLOW)
    assert until(other.prober, target.job(), lambda result: not result.allowed) is not None
    assert until(friend.prober, target.job(), lambda result: result.allowed) is not None
    assert left(node)[former] > 0
    assert left(node)[backend] == 0
    friend.prober.stream("open", target.job(), rate=100)
    other.prober.stream("closed", target.job(), rate=100)
    node.stop_daemon()
    node.daemon_arguments = [word for word in node.daemon_arguments if word != FLAG]
    node.daemon_arguments += [FLAG] if backend == "nftables" else []
    node.start_daemon()
    lab.wait(lambda: node.ready(), 40, "the daemon ready")
    lab.wait(lambda: left(node)[former] == 0, 20, "the former backend gone")
    before = friend.prober.report("open").sent
    lab.wait(lambda: friend.prober.report("open").sent > before + 100, 10, "probes after the switch")
    open_path, closed_path = friend.prober.stop_stream("open"), other.prober.stop_stream("closed")
    assert (open_path.lost, closed_path.allowed) == (0, 0)
    assert left(node)[backend] > 0
