"""SIGTERM ends the daemon and leaves the node's network as it is, whatever of it the three controllers have made."""

from __future__ import annotations

import re
import signal

import pytest

from tests.lab.test_daemon import started
from tests.lab.test_firewall import ALLOW, DENY
from tests.lab.test_services import SHOP, VIP
from tests.support.lab import Lab, Node, Pod, netns
from tests.support.probes import Job, until

pytestmark = pytest.mark.root

LOOKS = {
    "routes": "ip route show table all; ip -6 route show table all",
    "rules": "ip rule; ip -6 rule",
    "links": "ip link show; ip tunnel show; bridge -d link show",
    "addresses": "ip -o addr show",
    "settings": "sysctl -a --pattern '^net[.](bridge|ipv4[.](vs|ip_forward)|ipv[46][.]conf[.]all)' 2>/dev/null",
    "sets": "ipset save | sort",
    "iptables": "for family in iptables ip6tables; do $family-nft-save; done",
    "nftables": "nft --stateless list tables",
    "services": "[ ! -e /proc/net/ip_vs ] || ipvsadm -Sn",
    "timeouts": "[ ! -e /proc/net/ip_vs ] || ipvsadm -l --timeout",
    "cni": "cat {cni}",
    "peers": 'gobgp --json neighbor | grep -o \'"neighbor_address":"[^"]*"\' | sort',
    "paths": "gobgp global rib; gobgp global rib -a ipv6",
    "policy": "gobgp policy",
}
"""What a daemon makes and has made on its node, as commands."""


def look(node: Node) -> dict[str, list[str]]:
    """The node's network, without counters and times."""
    # In one shell: where the processor is emulated a process takes its time.
    script = "\n".join(f"echo '== {name}'; {command}" for name, command in LOOKS.items())
    text = node.sh(script.replace("{cni}", str(node.cni_file)))
    text = re.sub(r"\[\d+:\d+\]|^#.*$|\d\d:\d\d:\d\d", "", text, flags=re.M)
    parts = [part.partition("\n") for part in text.removeprefix("== ").split("\n== ")]
    return {name: [line for line in lines.splitlines() if line.strip()] for name, _, lines in parts}


def settled(lab: Lab, node: Node) -> dict[str, list[str]]:
    """The node's network once two looks at it agree."""
    looks = [look(node)]

    def same() -> bool:
        looks.append(look(node))
        return looks[-1] == looks[-2]

    lab.wait(same, 30, "a node at rest")
    return looks[-1]


def differing(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, object]:
    """What is gone and what is new, for a failure that says something."""
    return {
        name: (sorted({*old} - {*new}), sorted({*new} - {*old}))
        for name, old in before.items()
        if (new := after[name]) != old
    }


@pytest.mark.parametrize(
    "full",
    [
        pytest.param(False, id="kernel-without-ipvs"),
        pytest.param(True, id="all", marks=[pytest.mark.ipvs, pytest.mark.dummy, pytest.mark.ipip]),
    ],
)
def test_sigterm_leaves_the_network_as_it_is(full: bool) -> None:
    if not full and netns.have("ip_vs"):
        pytest.skip("this kernel has IPVS: the other case says more")
    ready = ["router: ready", "firewall: ready", *(["service-proxy: ready"] if full else [])]

    def is_ready(node: Node) -> bool:
        return set(ready) <= set(node.readyz().splitlines())

    with Lab(nodes=2, subnets=2 if full else 1, manifests=True, families=(4, 6)) as lab:
        started(lab)
        friend, other, target = _pods(lab)
        for text in (DENY, ALLOW, SHOP.replace("{app: web}", "{app: closed}")):
            lab.apply(text)
        node = lab.node("node1")
        lab.wait(lambda: all(is_ready(each) for each in lab.nodes), 90, f"{', '.join(ready)}")
        assert until(other.prober, target.job(), lambda result: not result.allowed) is not None
        paths = [target.job(), *([Job("tcp", VIP, 80)] if full else [])]
        for path in paths:
            assert until(friend.prober, path, lambda result: result.allowed) is not None
        lab.wait(lambda: VIP in str(look(node)["sets"]), 30, "the Service in its sets")
        before = settled(lab, node)
        # The test looks where there is something to see.
        assert [name for name in _wanted(full) if not before[name]] == []
        assert ("tun-" in str(before["links"]), "10.96.0.10" in str(before["services"])) == (full, full)

        assert node.stop_daemon(signal.SIGTERM) == 0
        assert differing(before, look(node)) == {}
        assert all(result.allowed for result in friend.prober.probe(paths))
        assert not other.reaches(target)

        if full:
            # Another start takes a minute there, and is what other tests are about.
            return
        node.start_daemon()
        lab.wait(lambda: is_ready(node), 90, f"again {', '.join(ready)}")
        assert differing(before, settled(lab, node)) == {}


def _pods(lab: Lab) -> tuple[Pod, Pod, Pod]:
    """Two clients on the node that is stopped, and a target on the last one which is closed to one of them."""
    last = lab.nodes[-1].name
    return (
        lab.pod("friend", "node1", labels={"role": "friend"}),
        lab.pod("other", "node1"),
        lab.pod("target", last, labels={"app": "closed"}),
    )


def _wanted(full: bool) -> set[str]:
    """The looks that have to show something."""
    return LOOKS.keys() - (set() if full else {"services", "timeouts"})
