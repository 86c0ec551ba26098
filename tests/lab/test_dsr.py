"""Direct server return through the whole daemon: two nodes, a client outside whose packets the router sends to one.

The pod that answers is on the other node, so that an answer past the director shows in what passes where.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, netns
from tests.support.lab.fabric import OUTSIDE
from tests.support.probes import Job, Outcome

pytestmark = [pytest.mark.ipvs, pytest.mark.dummy, pytest.mark.ipip]

VIPS = ("10.255.0.1", "2001:db8:ffff::1")
SHOP = """
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: default
  creationTimestamp: "2026-01-01T00:00:00Z"
  annotations: {kube-router.io/service.dsr: tunnel}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  ipFamilies: [IPv4, IPv6]
  externalIPs: [10.255.0.1, "2001:db8:ffff::1"]
  selector: {app: web}
  ports:
  - {name: http, port: 80, protocol: TCP}
  - {name: dns, port: 80, protocol: UDP}
"""
PLAIN = SHOP.replace("annotations: {kube-router.io/service.dsr: tunnel}", "annotations: {}")
SLOW = 2.0
"""Seconds for a probe: the guest emulates its processor."""
PROMPT = 1.5
"""Seconds within which a refusal has to come; in the lab IPv6 takes a second to understand one."""
SERVER = """
import socket
s = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    c, _ = s.accept()
    n = 0
    while (b := c.recv(65536)): n += len(b)
    c.sendall(str(n).encode()); c.close()
"""
UPLOAD = """
import socket, sys
c = socket.create_connection((sys.argv[1], 9000), 20)
c.sendall(bytes(200000)); c.shutdown(socket.SHUT_WR)
print(c.recv(100).decode(), c.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The service proxy on two nodes over static routes; the client's way to the service addresses is node1."""
    arguments = ["--run-router=false", "--run-firewall=false", "--strict-external-ip-validation=false"]
    with Lab(nodes=2, subnets=1, families=(4, 6), manifests=True, runtime=True, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        one = lab.node("node1").site.addresses
        netns.configure(lab.fabric.name, *(f"route add {v} via {a}" for v, a in zip(VIPS, one, strict=True)))
        lab.pod("web", "node2", labels={"app": "web"})
        lab.pod("client", "node1", labels={"app": "client"})
        lab.pod("near", "node2", labels={"app": "client"})
        # As strict as a distribution may have it.
        netns.sysctls(
            lab.pods["default/web"].network, {"ipv4/conf/all/rp_filter": "1", "ipv4/conf/eth0/rp_filter": "1"}
        )
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 90, "ready daemons")
        lab.apply(SHOP)
        await_direct(lab)
        yield lab


def served(lab: Lab, vip: str, protocol: str = "tcp") -> str:
    """Who answers the client outside."""
    result = lab.outside.probe([Job(protocol, vip, 80)], SLOW)[0]
    return result.server if result.allowed else result.outcome.value


def await_direct(lab: Lab) -> None:
    """Wait until the pod has its receivers and the director sends to it."""
    pod = lab.pods["default/web"].network
    lab.wait(lambda: all(vip in ip(pod, "addr") for vip in VIPS), 60, "receivers in the pod")
    lab.wait(lambda: all(served(lab, vip) == "web" for vip in VIPS), 60, "the Service answers")


def ip(namespace: str, *words: str) -> str:
    return subprocess.run(["ip", "-n", namespace, *words], capture_output=True, text=True, check=True).stdout


def run_in(namespace: str, script: str, *words: str) -> list[str]:
    """The command that runs a Python script in a namespace."""
    return [
        "nsenter",
        f"--net={netns.path(namespace)}",
        "setpriv",
        "--pdeathsig",
        "KILL",
        "python3",
        "-c",
        script,
        *words,
    ]


COUNTED = """
add table inet seen
add chain inet seen leaving {{ type filter hook {hook} priority -400; }}
add rule inet seen leaving ip saddr {four} counter comment "from"
add rule inet seen leaving ip6 saddr {six} counter comment "from"
"""


class Seen:
    """Counts packets with a service address as their source, by hook of each namespace."""

    def __init__(self, *places: tuple[str, str]) -> None:
        self._namespaces = [namespace for namespace, _ in places]
        for namespace, hook in places:
            rules = COUNTED.format(hook=hook, four=VIPS[0], six=VIPS[1])
            with netns.inside(namespace):
                subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)

    def counts(self) -> list[list[int]]:
        """IPv4 and IPv6 packets per place."""
        found: list[list[int]] = []
        for namespace in self._namespaces:
            with netns.inside(namespace):
                text = subprocess.run(
                    ["nft", "-j", "list", "table", "inet", "seen"], capture_output=True, text=True, check=True
                ).stdout
            rules = [item["rule"]["expr"] for item in json.loads(text)["nftables"] if "rule" in item]
            found.append([e["counter"]["packets"] for rule in rules for e in rule if "counter" in e])
        return found

    def remove(self) -> None:
        for namespace in self._namespaces:
            with netns.inside(namespace):
                subprocess.run(["nft", "delete", "table", "inet", "seen"], check=True)


def test_answers_leave_the_pod_as_the_service_and_pass_the_director_by(lab: Lab) -> None:
    pod, director = lab.pods["default/web"].network, lab.node("node1").namespace
    seen = Seen((pod, "output"), (lab.node("node2").namespace, "prerouting"), (director, "prerouting"))
    try:
        for vip, client in zip(VIPS, OUTSIDE, strict=True):
            for protocol in ("tcp", "udp"):
                results = lab.outside.probe([Job(protocol, vip, 80)] * 3, SLOW)
                assert [(r.server, r.peer) for r in results] == [("web", client)] * 3, (vip, protocol, results)
        sent, forwarded, through_director = seen.counts()
    finally:
        seen.remove()
    assert all(count >= 12 for count in sent), "the pod answers as the service"
    assert forwarded >= sent, "through its own node"
    assert through_director == [0, 0], "and not through the director"


def test_pods_and_nodes_are_answered_too(lab: Lab) -> None:
    one = lab.node("node1")
    for index, vip in enumerate(VIPS):
        for client in (lab.pods["default/client"], lab.pods["default/near"]):
            for protocol in ("tcp", "udp"):
                result = client.prober.probe([Job(protocol, vip, 80)], SLOW)[0]
                assert (result.server, result.peer) == ("web", client.ips[index]), (client.key, vip, protocol, result)
        script = f"python3 -c 'import socket; print(socket.create_connection((\"{vip}\", 80), 5).recv(99).decode())'"
        for node in lab.nodes:
            assert node.sh(script).split() == ["web", node.site.addresses[index]]
    # The director owns the address, so it answers for it.
    for vip in VIPS:
        assert lab.outside.probe([Job("icmp", vip)], SLOW)[0].allowed
    assert one.sh("cat /proc/sys/net/ipv4/conf/all/accept_local").strip() == "1"


def test_big_uploads_fit_into_the_tunnel(lab: Lab) -> None:
    pod = lab.pods["default/web"].network
    more = SHOP.replace("name: web", "name: upload").replace("10.96.0.10", "10.96.0.11").replace("fd96::10", "fd96::11")
    more = more.replace("name: http, port: 80", "name: up, port: 9000").replace(
        "  - {name: dns, port: 80, protocol: UDP}\n", ""
    )
    server = subprocess.Popen(run_in(pod, SERVER))
    try:
        lab.apply(more)
        limits = (1440, 1400)
        for vip, limit in zip(VIPS, limits, strict=True):
            words = run_in(lab.fabric.outside, UPLOAD, vip)
            lab.wait(lambda words=words: uploaded(words)[0] == 200000, 60, f"an upload to {vip}")
            assert uploaded(words)[1] <= limit
    finally:
        server.kill()
        server.wait(5)
        lab.delete("Service", "default", "upload")


def uploaded(words: list[str]) -> tuple[int, int]:
    """How many bytes arrived, and the segment size; nothing if nobody answered."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    count, _, size = done.stdout.partition(" ")
    return (int(count), int(size)) if done.returncode == 0 else (0, 0)


def test_a_service_without_endpoints_refuses_at_once(lab: Lab) -> None:
    lab.apply(SHOP.replace("selector: {app: web}", "selector: {app: none}"))
    client = lab.pods["default/client"].prober
    try:
        for vip in VIPS:
            lab.wait(lambda vip=vip: served(lab, vip) == "refused", 30, "nobody answers")
            for prober in (lab.outside, client):
                for protocol in ("tcp", "udp"):
                    result = prober.probe([Job(protocol, vip, 80)], SLOW)[0]
                    assert result.outcome is Outcome.REFUSED, (vip, protocol, result)
                    assert result.seconds < PROMPT
        assert all(vip not in ip(lab.pods["default/web"].network, "addr") for vip in VIPS), "the pod is no endpoint"
    finally:
        lab.apply(SHOP)
        await_direct(lab)


def test_a_pod_cannot_use_addresses_of_the_node(lab: Lab) -> None:
    client, one = lab.pods["default/client"], lab.node("node1")
    netns.configure(client.network, f"addr add {one.ip}/32 dev eth0")
    seen = f"iptables -t mangle -I INPUT -s {one.ip} -i kube-bridge"
    one.sh(seen)
    try:
        script = (
            f"import socket; s=socket.socket(); s.bind(('{one.ip}', 0)); s.settimeout(1); s.connect(('10.244.1.1', 22))"
        )
        subprocess.run(run_in(client.network, script), capture_output=True, timeout=60, check=False)
        counted = one.sh("iptables -t mangle -L INPUT -v -n -x").splitlines()[2].split()
        assert counted[0] == "0", "accept_local lets answers of services in, nothing else"
    finally:
        one.sh(seen.replace("-I", "-D"))
        netns.configure(client.network, f"addr del {one.ip}/32 dev eth0")


def left(lab: Lab) -> list[str]:
    """What there is of direct return on nodes and in pods."""
    found: list[str] = []
    for node in lab.nodes:
        for command in (
            "ipvsadm -Sn",
            "iptables-save -t mangle",
            "ip6tables-save -t mangle",
            "ipset list -n",
            "ip rule",
        ):
            found += [
                f"{node.name}: {line}"
                for line in node.sh(command).splitlines()
                if " -f " in line or "DSR" in line or "svip-dsr" in line or "fwmark" in line
            ]
        if node.sh("cat /proc/sys/net/ipv4/conf/all/accept_local").strip() != "0":
            found.append(f"{node.name}: accept_local")
    for pod in lab.pods.values():
        found += [f"{pod.key}: {line}" for line in ip(pod.network, "-o", "addr").splitlines() if "kube-tunnel" in line]
        found += [f"{pod.key}: {line}" for line in ip(pod.network, "-o", "link").splitlines() if "kube-tunnel" in line]
    return found


def test_b08_nothing_is_left_when_the_annotation_goes_and_traffic_goes_on(lab: Lab) -> None:
    assert left(lab)
    lab.apply(PLAIN)
    lab.wait(lambda: not left(lab), 60, f"everything gone: {left(lab)}")
    for vip in VIPS:
        lab.wait(lambda vip=vip: served(lab, vip) == "web", 30, "the Service answers in the usual way")
    lab.apply(SHOP)
    await_direct(lab)


def test_b08_what_ended_while_the_daemon_was_away_is_cleared_by_the_next(lab: Lab) -> None:
    for node in lab.nodes:
        node.kill_daemon()
    lab.delete("Service", "default", "web")
    assert left(lab)
    for node in lab.nodes:
        node.start_daemon()
    lab.wait(lambda: not left(lab), 90, f"everything gone: {left(lab)}")
    lab.apply(SHOP)
    await_direct(lab)
