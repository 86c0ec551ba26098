"""What `docs/migrate.md` promises, with the commands that stand there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.support.lab import Lab
from tests.support.lab.node import Node
from tests.support.pages import commands

pytestmark = pytest.mark.root

PAGE = "migrate.md"
BESIDE = ["--enable-cni=false", "--enable-pod-egress=false"]
MOST_LOST = 25
"""Probes, 50 a second: half a second for a route of ours where flannel's was, on a machine with others at work."""


def follow(node: Node, what: str) -> None:
    """Do what the page says on a node; the folder of the CNI configuration is the lab's."""
    text = (
        commands(PAGE, what).replace("/etc/cni/net.d", str(node.cni_file.parent)).replace("/run/flannel", "/run/none")
    )
    assert "/etc" not in text
    node.sh(text)


def flannel(lab: Lab) -> None:
    """What flanneld leaves of its VXLAN on every node, which works without it, and its CNI configuration."""
    for node in lab.nodes:
        number = node.site.pod_cidrs[0].split(".")[2]
        node.sh(
            f"ip link add flannel.1 address 02:00:00:00:00:{number:0>2} type vxlan id 1 local {node.ip} dev eth0 "
            f"dstport 8472 nolearning; ip address add 10.244.{number}.0/32 dev flannel.1; ip link set flannel.1 up"
        )
        for other in lab.nodes:
            far = other.site.pod_cidrs[0].split(".")[2]
            if other is not node:
                node.sh(
                    f"ip neigh add 10.244.{far}.0 lladdr 02:00:00:00:00:{far:0>2} dev flannel.1;"
                    f"bridge fdb add 02:00:00:00:00:{far:0>2} dev flannel.1 dst {other.ip};"
                    f"ip route add {other.site.pod_cidrs[0]} via 10.244.{far}.0 dev flannel.1 onlink"
                )
        for tool in ("iptables", "ip6tables"):
            node.sh(
                f"{tool} -t nat -N FLANNEL-POSTRTG; {tool} -N FLANNEL-FWD;"
                f'{tool} -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG;'
                f'{tool} -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD'
            )
        node.sh("iptables -t nat -A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN")
        node.sh("iptables -t nat -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE")
        ipam = {"type": "host-local", "ranges": [[{"subnet": node.site.pod_cidrs[0]}]]}
        bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "mtu": 1450, "ipam": ipam}
        node.cni_file.write_text(json.dumps({"cniVersion": "0.3.1", "name": "cbr0", "plugins": [bridge]}))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    arguments = ["--run-service-proxy=false", "--run-firewall=false", "--overlay-type=subnet", *BESIDE]
    with Lab(nodes=2, subnets=1, daemon_arguments=arguments) as lab:
        flannel(lab)
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 40, "ready daemons")
        yield lab


def ours(node: Node) -> str:
    return node.sh("ip route show proto 17")


def told(lab: Lab, node: Node) -> list[str]:
    """Events about a Node."""
    with lab.api.store.lock:
        found = list(lab.api.store.objects["events"].values())
    return [each["message"] for each in found if each["involvedObject"]["name"] == node.name]


def test_from_flannel_node_by_node_with_pods_at_work(lab: Lab, tell: Callable[[str], None]) -> None:
    one, two = lab.nodes
    stays = lab.pod("stays", "node2")
    goes = lab.pod("goes", "node1")
    assert goes.reaches(stays)
    # 2. Pods of one node.
    lab.remove_pod(goes)
    follow(one, "flannel: a drained node")
    one.cni_file.unlink()
    one.daemon_arguments = [word for word in one.daemon_arguments if word not in BESIDE]
    one.restart_daemon()
    lab.wait(lambda: one.cni_file.exists() and one.ready(), 40, "the CNI configuration")
    new = lab.pod("new", "node1")
    assert "kube-bridge" in one.sh(f"ip route get {new.ip}")
    assert "flannel.1" in one.sh(f"ip route get {stays.ip}")
    assert new.reaches(stays)
    assert stays.reaches(new)
    # 1. Sessions take a while, so this is looked at late: flannel's routes count.
    lab.wait(lambda: "Establ" in one.gobgp("neighbor"), 30, "a session")
    lab.wait(lambda: any("that is not ours" in text and "flannel.1" in text for text in told(lab, one)), 20, "an Event")
    assert not ours(one)
    # 4. Routes, node by node, with pods that talk all the time.
    new.prober.stream("there", stays.job(), rate=50)
    stays.prober.stream("back", new.job(), rate=50)
    for node, far in ((one, stays), (two, new)):
        lab.wait(lambda: new.prober.report("there").sent > 10, 20, "probes")
        follow(node, "flannel: its routes")
        lab.wait(lambda node=node: bool(ours(node)), 10, "a route of ours")
        assert "dev eth0" in node.sh(f"ip route get {far.ip}")
    reports = [new.prober.stop_stream("there"), stays.prober.stop_stream("back")]
    tell(f"from flannel to ours: {[report.lost for report in reports]} of {[report.sent for report in reports]} lost")
    assert all(report.sent > 10 and report.lost < MOST_LOST for report in reports), reports
    # 5. What is left.
    one.sh("iptables -t nat -A POSTROUTING -s 192.0.2.1 -m comment --comment others -j RETURN")
    follow(one, "flannel: what is left")
    left = one.sh("ip link; iptables-save; ip6tables-save")
    assert "flannel" not in left.lower()
    assert "--comment others" in left
    assert left.count("kube-router:") >= 4, "ours stays"
    assert new.reaches(stays)


def test_nothing_is_left_of_calico_and_others_keep_what_is_theirs(lab: Lab) -> None:
    node = lab.node("node1")
    for tool, family, address in (("iptables", "inet", "10.9.0.1"), ("ip6tables", "inet6", "fd09::1")):
        name = f"cali{'4' if family == 'inet' else '6'}0s:all"
        node.sh(f"ipset create {name} hash:net family {family}; ipset create others-{family} hash:net family {family}")
        rules = [
            ":cali-FORWARD - [0:0]",
            ":cali-wl - [0:0]",
            '-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD',
            f"-A cali-FORWARD -m set --match-set {name} src -j cali-wl",
            f"-A cali-wl -s {address} -j DROP",
            '-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT',
            f"-A FORWARD -s {address} -j DROP",
        ]
        node.sh(f"{tool}-restore --noflush <<'END'\n" + "\n".join(["*filter", *rules, "COMMIT", "END"]))
    node.sh(
        "ip link add cali0123456789a type veth peer name cali-peer; ip link add vxlan.calico type vxlan id 9 dstport 0"
    )
    node.sh("ip link add others type bridge; ip link set others up")
    node.sh("ip route add 10.9.0.0/26 dev others proto 80; ip route add 10.9.1.0/26 dev others proto bird")
    node.sh("ip route add 10.9.2.0/26 dev others proto static")
    before = ours(node)
    assert before
    follow(node, "calico: what is left")
    left = node.sh("ip link; iptables-save; ip6tables-save; ipset list -n; ip route")
    assert "cali" not in left
    assert all(
        text in left for text in ("others-inet6", "-s 10.9.0.1/32 -j DROP", "-s fd09::1/128 -j DROP", "10.9.2.0/26")
    )
    assert "10.9.0.0/26" not in left
    assert "10.9.1.0/26" not in left
    assert ours(node) == before
