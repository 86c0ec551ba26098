"""`--cleanup-config` on a node that all three controllers have used, and on one that the Go kube-router has left."""

from __future__ import annotations

import difflib
import re
import sys
import time
from collections.abc import Iterator

import pytest

from kuberouter.model.core import Family
from tests.lab.test_firewall import ALLOW, DENY
from tests.lab.test_services import SHOP, VIP
from tests.lab.test_takeover import feed
from tests.support import original
from tests.support.lab import Lab, netns
from tests.support.lab.node import ROOT, Node

pytestmark = pytest.mark.root
LOOKS = """
for variant in nft legacy; do for tool in iptables ip6tables; do
    echo "== $tool-$variant"; $tool-$variant-save
done; done
echo '== nftables'; nft list tables | grep -vE 'table ip6? (filter|nat|mangle|raw|security)$'
echo '== sets'; ipset save | sort
echo '== links'; ip -o link show
echo '== addresses'; ip -o addr show
echo '== routes'; ip route show table all; ip -6 route show table all
echo '== rules'; ip rule; ip -6 rule
echo '== fou'; ip fou show 2>/dev/null; ip -6 fou show 2>/dev/null
echo '== services'; [ ! -e /proc/net/ip_vs ] || ipvsadm -Sn
echo '== cni'; ls -A {cni}
"""
FOREIGN = """
for variant in nft legacy; do for tool in iptables ip6tables; do
    $tool-$variant -N OTHERS; $tool-$variant -A FORWARD -m comment --comment others -j OTHERS
    $tool-$variant -t nat -A POSTROUTING -o nowhere -j MASQUERADE
done; done
ipset create others hash:ip; ipset add others 192.0.2.1; ipset create KUBE-SRC hash:ip
ip link add others type bridge; ip link set others up; ip addr add 192.0.2.9/32 dev others
ip link add tun-others type bridge
ip route add 198.51.100.0/24 via 192.0.2.254 dev others onlink proto static
ip route add blackhole 198.18.0.0/15 proto 42
ip rule add from 192.0.2.0/24 lookup 99
nft add table inet others; nft add chain inet others input '{ type filter hook input priority 5; }'
[ ! -e /proc/net/ip_vs ] || ipvsadm -A -t 192.0.2.9:80 -s wlc
"""


ROUTE = "ip route add 10.244.9.0/24 via 192.0.2.254 dev others onlink proto 17"
TUNNELS = f"""
{ROUTE}
ip fou add port 5555 gue
ip link add tun-0123456789a type ipip local 172.30.1.1 remote 172.30.1.9 encap gue encap-dport 5555
ip link set tun-0123456789a up
ip route add 10.244.8.0/24 dev tun-0123456789a proto 17
ip route add 172.30.1.9 dev tun-0123456789a table 77 proto 17
"""
IDLE = r"\*|COMMIT|:[A-Z]+ ACCEPT|\d+: (gre|erspan|tunl|ip6tnl|sit|fou)"
"""What there is once a table or a module has been used, and says nothing."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(nodes=2, subnets=1, families=(4, 6)) as lab:
        for node in lab.nodes:
            node.sh(FOREIGN)
            # The daemon makes it.
            node.cni_file.unlink(missing_ok=True)
        yield lab


def look(node: Node) -> list[str]:
    """The node's network without counters, times, and tables that only exist."""
    text = node.sh(LOOKS.replace("{cni}", str(node.cni_file.parent)))
    text = re.sub(r"\[\d+:\d+\]|^#.*$|expires \d+sec| hoplimit \d+|qlen \d+|\bstate \w+", "", text, flags=re.M)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if not re.match(IDLE, line)]


def cleanup(node: Node, *words: str) -> tuple[int, list[str]]:
    """Exit code and output."""
    program = f"env KUBE_ROUTER_CNI_CONF_FILE={node.cni_file} {sys.executable} {ROOT}/cmd/kube-router"
    # Pods of other labs, that run on this machine as well, are not this node's.
    script = f"unshare --pid --fork --mount-proc {program} --cleanup-config {' '.join(words)} 2>&1; echo rc $?"
    *said, last = node.sh(script, check=False).splitlines()
    return int(last.removeprefix("rc ")), [line for line in said if not line.startswith("skipped ")]


def difference(before: list[str], after: list[str]) -> list[str]:
    return list(difflib.unified_diff(before, after, "pristine", "cleaned", lineterm="", n=0))


def test_a_used_node_is_as_it_was(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    if netns.have("ip_vs"):
        pytest.skip("this kernel has ip_vs; the next test does this with more")
    with capsys.disabled():
        print(_used(lab))


@pytest.mark.ipvs
@pytest.mark.dummy
@pytest.mark.ipip
@pytest.mark.fou
def test_a_used_node_is_as_it_was_with_services_and_tunnels(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(_used(lab, TUNNELS))


def _used(lab: Lab, tunnels: str = "") -> str:
    """Have a node used and cleaned up; the figures. Where there are tunnels a program takes its time: it runs once."""
    node = lab.node("node1")
    pristine = look(node)
    lab.start_node(node)
    lab.wait(lambda: node.cni_file.exists() and node.cni_ready(), 90, "a node that pods can start on")
    pods = [lab.pod(f"web-{n}", "node1", labels={"app": app}) for n, app in enumerate(("web", "closed"))]
    lab.apply(SHOP)
    lab.apply(DENY)
    lab.apply(ALLOW)
    lab.wait(lambda: "KUBE-POD-FW-" in node.sh("iptables-nft-save"), 40, "policy")
    if tunnels:
        lab.wait(lambda: VIP in node.sh("ipvsadm -Ln"), 40, "a virtual service")
    assert len(difference(pristine, look(node))) > 40
    if not tunnels:
        used = _settled(lab, node)
        assert cleanup(node)[0] == 1, "a daemon runs, and nobody was told"
        assert look(node) == used
    for pod in pods:
        lab.remove_pod(pod)
    node.stop_daemon()
    node.sh(tunnels or ROUTE)
    listed = [] if tunnels else _listed(node)
    code, said = cleanup(node)
    assert code == 0, said
    assert not (left := difference(pristine, look(node))), left
    removed = [line for line in said if line.startswith("removing ")]
    if not tunnels:
        assert [line.replace("found ", "removing ", 1) for line in listed] == removed
        assert cleanup(node) == (0, ["nothing of a kube-router is here"])
    return f"cleanup: {len(removed)} things removed, 0 lines differ from the node before, of {len(pristine)}"


def _settled(lab: Lab, node: Node) -> list[str]:
    """The node's network once two looks at it, some time apart, agree."""
    looks = [look(node)]

    def same() -> bool:
        time.sleep(0.5)
        looks.append(look(node))
        return looks[-1] == looks[-2]

    lab.wait(same, 30, "a node at rest")
    return looks[-1]


def _listed(node: Node) -> list[str]:
    """What would be removed, according to a look that changes nothing."""
    idle = look(node)
    code, said = cleanup(node, "--dry-run")
    assert code == 0
    assert look(node) == idle
    return [line for line in said if line.startswith("found ")]


def test_what_the_go_kube_router_left_goes_as_well(lab: Lab) -> None:
    node = lab.node("node2")
    pristine = look(node)
    for family, pod in zip((Family.IPV4, Family.IPV6), ("10.244.2.9", "fd44:2::9"), strict=True):
        tool = "iptables" if family is Family.IPV4 else "ip6tables"
        feed(node, "ipset restore", original.sets(family))
        feed(node, f"{tool}-legacy-restore --noflush", original.rules(family, pod))
        feed(node, "nft -f -", original.tables(family, pod))
    for words, text in original.egress():
        feed(node, words, text)
    node.sh(f"{ROUTE}; ip rule add from 10.244.2.0/24 lookup 77")
    node.sh("ipset create kube-router-service-ips hash:ip; ipset create kube-router-ipvs-services hash:ip,port")
    assert difference(pristine, look(node)) != []
    code, said = cleanup(node)
    assert code == 0, said
    assert not (left := difference(pristine, look(node))), left


def test_less_is_taken_off_when_less_is_asked_for(lab: Lab) -> None:
    node = lab.node("node2")
    node.sh(f"ip link add kube-bridge type bridge; {ROUTE}; ipset create KUBE-SRC-ABC hash:ip")
    code, said = cleanup(node, "--cleanup-level=rules")
    assert (code, said[0], said[-1]) == (0, "removing set: KUBE-SRC-ABC", "1 of 1 things removed")
    assert cleanup(node, "--cleanup-level=links")[1][0] == "removing route: 10.244.9.0/24"
    assert "kube-bridge" in node.sh("ip -o link show")
    assert cleanup(node)[1][0] == "removing bridge of pods: kube-bridge"
