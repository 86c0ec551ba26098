"""From the Go kube-router to this one: one start, nothing of its rules left or in force, others' rules as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kuberouter.model.core import Family
from tests.lab.test_firewall import DENY
from tests.support import original
from tests.support.lab import Lab
from tests.support.lab.node import Node
from tests.support.probes import until

pytestmark = pytest.mark.root
FLAG = "--use-nftables-for-netpol"
RULE = "-A FORWARD -s 192.0.2.1/32 -m comment --comment others -j DROP"
FORMER = ("nft", "legacy", "nftables")
"""Where its rules stand: in a variant of iptables, or in its tables of nftables."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    arguments = ["--run-router=false", "--run-service-proxy=false", "--iptables-mode=nft"]
    with Lab(nodes=1, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        lab.pod("source", "node1")
        lab.pod("open", "node1")
        lab.pod("closed", "node1", labels={"app": "closed"})
        lab.apply(DENY)
        yield lab


def clear(node: Node) -> None:
    """Take everything off the node, as if no daemon had ever been there."""
    node.sh("nft flush ruleset")
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        node.sh(f"{tool} -F; {tool} -X")
    node.sh("ipset destroy")


def leave(node: Node, former: str, addresses: tuple[str, ...]) -> None:
    """Put there what the original leaves of a policy that closes a pod to everybody, of each family."""
    for family, address in zip((Family.IPV4, Family.IPV6), addresses, strict=True):
        tool = "iptables" if family is Family.IPV4 else "ip6tables"
        if former == "nftables":
            feed(node, "nft -f -", original.tables(family, address))
            continue
        feed(node, "ipset restore", original.sets(family))
        feed(node, f"{tool}-{former}-restore --noflush", original.rules(family, address))
    node.sh(f"iptables-nft {RULE}; iptables-legacy {RULE}")


def feed(node: Node, words: str, text: str) -> None:
    """Run a command on the node with this on its standard input."""
    node.sh(f"{words} <<'END'\n{text}END")


def left(node: Node) -> list[str]:
    """Lines in which a name is that only the original gives, or a jump of its."""
    tools = [f"{tool}-{variant}-save" for tool in ("iptables", "ip6tables") for variant in ("nft", "legacy")]
    texts = [node.sh(tool) for tool in tools] + [node.sh("ipset list -n"), node.sh("nft list ruleset")]
    names = (*original.SETS, original.POD, original.POLICY, "netpol - ", "KUBE-NWPLCY-TAIL")
    return [line for text in texts for line in text.splitlines() if any(name in line for name in names)]


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("former", FORMER)
def test_one_start_takes_over(lab: Lab, former: str, backend: str) -> None:
    """What the original closed is open at once if no policy closes it, and the other way round."""
    node = lab.nodes[0]
    source, opened, closed = (lab.pods[f"default/{name}"] for name in ("source", "open", "closed"))
    node.stop_daemon()
    clear(node)
    leave(node, former, opened.ips)
    assert not source.reaches(opened)
    assert source.reaches(closed)
    node.daemon_arguments = [word for word in node.daemon_arguments if word != FLAG]
    node.daemon_arguments += [FLAG] if backend == "nftables" else []
    node.start_daemon()
    assert until(source.prober, closed.job(), lambda result: not result.allowed) is not None
    lab.wait(node.ready, 40, "the daemon ready")
    lab.wait(lambda: not left(node), 20, "nothing of the original left")
    assert source.reaches(opened)
    assert not source.reaches(closed)
    for variant in ("nft", "legacy"):
        saved = node.sh(f"iptables-{variant}-save -t filter").splitlines()
        assert RULE in saved
        used = variant == "nft" and backend == "iptables"
        assert sum("-j KUBE-ROUTER-FORWARD" in line for line in saved) == (1 if used else 0)
        assert used or not any("KUBE-" in line for line in saved)
