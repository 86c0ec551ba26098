"""Ways around policy that a pod or its neighbours may try: borrowed source addresses, marks, host ports, the bridge.

Both backends, both families; pods behind a bridge and pods with a link of their own.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import NamedTuple

import pytest

from tests.support import nflog
from tests.support.lab import Lab, netns
from tests.support.lab.fabric import OUTSIDE
from tests.support.lab.pods import Pod
from tests.support.probes import PATIENCE, Job, until

pytestmark = pytest.mark.root

TRANSPARENT = {4: (socket.SOL_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
"""linux/in.h, linux/in6.h: send from any address."""
KIND = {4: socket.AF_INET, 6: socket.AF_INET6}
NODE_PORT = 30777
VIP = ("10.96.0.50", "fd96::50")
"""In the ranges of the cluster IPs, and addresses of the first node, as IPVS needs them."""
ELSEWHERE = ("198.51.100.9", "2001:db8:9::9")
SECOND = ("198.51.100.77", "2001:db8:9::77")
"""What the confined pod has besides its own, without anybody knowing."""
PORT = 5353
_tokens = itertools.count(1)
POLICIES = f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: closed, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: closed}}}}
  ingress:
  - from:
    - podSelector: {{matchLabels: {{role: friend}}}}
    - ipBlock: {{cidr: {OUTSIDE[0]}/32}}
    - ipBlock: {{cidr: "{OUTSIDE[1]}/128"}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: confined, namespace: default}}
spec: {{podSelector: {{matchLabels: {{app: confined}}}}, policyTypes: [Egress]}}
"""


@pytest.fixture(scope="module", params=["iptables-bridged", "iptables-routed", "nftables-bridged", "nftables-routed"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    backend, links = request.param.split("-")
    arguments = [
        "--run-router=false",
        "--run-service-proxy=false",
        "--service-cluster-ip-range=10.96.0.0/12,fd96::/112",
        # The tests read it themselves.
        "--netpol-log-drops=false",
    ]
    arguments += ["--use-nftables-for-netpol"] if backend == "nftables" else []
    with Lab(nodes=2, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        for node in lab.nodes:
            node.sh("for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo 0 >$f; done")
            if links == "routed":
                _without_bridge(lab, node.name)
        for address, length in zip(VIP, (32, 128), strict=True):
            lab.node("node1").sh(f"ip addr add {address}/{length} dev lo")
        lab.pod("free", "node1")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("confined", "node1", labels={"app": "confined"})
        lab.pod("closed", "node1", labels={"app": "closed"})
        lab.pod("target", "node1")
        lab.pod("far", "node2")
        yield lab


def _without_bridge(lab: Lab, name: str) -> None:
    """Have the pods of a node get a link of their own each, as many CNI plugins do it."""
    file = lab.node(name).cni_file
    network = json.loads(file.read_text())
    ipam = {**network["plugins"][0]["ipam"], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    network["plugins"] = [{"type": "ptp", "ipam": ipam}]
    file.write_text(json.dumps(network))


def _bridged(lab: Lab) -> bool:
    return '"bridge"' in lab.node("node1").cni_file.read_text()


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def governed(lab: Lab) -> Lab:
    """The lab with daemons and policies in force; what is forbidden was possible before."""
    free, confined, closed, target = (lab.pods[f"default/{n}"] for n in ("free", "confined", "closed", "target"))
    for version in (4, 6):
        assert arrives(free, closed, of(target, version))
        assert arrives(confined, target, of(free, version))
        assert all(served(lab, confined, of(pod, version)) for pod in (confined, free))
        for flow in (*ORIGINAL, *REPLIES, *STRANGE):
            if version == 4 and flow.client == "node" and not flow.reply and not _bridged(lab):
                # Whoever routes IPv4 refuses addresses of his own that come in by a wire.
                continue
            with opened(lab, flow, version) as (sender, receiver):
                assert injected(lab.pods[f"default/{flow.who}"], sender, receiver), str(flow)
    assert confined.reaches(target)
    assert free.reaches(closed)
    lab.start()
    lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 40, "ready daemons")
    lab.apply(POLICIES)
    for at in (0, 1):
        for source, job in ((free, Job("tcp", closed.ips[at], 80)), (confined, Job("tcp", target.ips[at], 80))):
            assert until(source.prober, job, lambda result: not result.allowed) is not None
    assert free.reaches(target)
    return lab


def of(pod: Pod, version: int) -> str:
    return pod.ips[version == 6]


def _gateway(lab: Lab, version: int) -> str:
    """Address of the first node on its pods' side, which is their gateway."""
    network = lab.node("node1").site.pod_cidrs[version == 6].split("/")[0]
    return network.rsplit("." if version == 4 else ":", 1)[0] + (".1" if version == 4 else ":1")


def arrives(source: Pod, target: Pod, address: str) -> bool:
    """Whether a datagram that `source` sends from any `address` gets to `target`."""
    return _gets(source, address, target.network, of(target, 6 if ":" in address else 4))


def served(lab: Lab, source: Pod, address: str) -> bool:
    """Whether it gets to a Service."""
    return _gets(source, address, lab.node("node1").namespace, VIP[":" in address])


def _gets(source: Pod, address: str, network: str, target: str) -> bool:
    with endpoint(network, target, PORT) as receiver:
        return heard(Word(source, (address, 0), receiver))


class Word(NamedTuple):
    """A datagram that a pod sends from any address to who waits for it."""

    source: Pod
    address: tuple[str, int]
    receiver: socket.socket


def heard(*words: Word) -> bool:
    """Whether any of these gets to whom it is for."""
    tokens = {f"token {next(_tokens)}".encode(): word for word in words}
    with ExitStack() as stack:
        end = time.monotonic() + 0.3 * PATIENCE
        for token, (source, address, receiver) in tokens.items():
            sender = stack.enter_context(endpoint(source.network, *address))
            with suppress(OSError):
                sender.sendto(token, receiver.getsockname()[:2])
        while (left := end - time.monotonic()) > 0:
            for receiver in select.select([word.receiver for word in words], [], [], left)[0]:
                if (found := tokens.get(receiver.recv(100))) is not None and found.receiver is receiver:
                    return True
    return False


@contextmanager
def endpoint(network: str, address: str, port: int) -> Iterator[socket.socket]:
    """A UDP socket in a namespace, at any address."""
    version = 6 if ":" in address else 4
    with netns.inside(network):
        made = socket.socket(KIND[version], socket.SOCK_DGRAM)
    with closing(made):
        made.setsockopt(*TRANSPARENT[version], 1)
        made.bind((address, port))
        yield made


@pytest.mark.parametrize(("who", "whose"), [("free", "target"), ("confined", "elsewhere")])
def test_what_the_guard_drops_is_told_on_the_log(governed: Lab, who: str, whose: str, version: int) -> None:
    """Pain 34. It comes first: the log tells of few packets when many were dropped before."""
    pods, address = governed.pods, _address(governed, whose, version)
    wanted = nflog.Record("KUBE-ROUTER-POD-GUARD egress", address)
    with nflog.listening(governed.node("node1").namespace) as log:

        def logged() -> bool:
            assert not arrives(pods[f"default/{who}"], pods["default/closed"], address)
            return log.find(lambda found: found == wanted, 0.1) is not None

        # At most one in six seconds, when many have come before.
        governed.wait(logged, 20, "a record of the dropped packet")


@pytest.mark.parametrize("whose", ["node", "gateway", "target", "elsewhere"])
def test_a_borrowed_source_address_opens_no_closed_pod(governed: Lab, whose: str, version: int) -> None:
    """W9: only what the node itself sends is the node's, wherever an address says otherwise."""
    pods = governed.pods
    assert not arrives(pods["default/free"], pods["default/closed"], _address(governed, whose, version))


@pytest.mark.parametrize("whose", ["node", "gateway", "free", "elsewhere"])
def test_a_confined_pod_does_not_get_out_under_another_address(governed: Lab, whose: str, version: int) -> None:
    """W10: a pod is bound to its link, not only to its address."""
    pods, address = governed.pods, _address(governed, whose, version)
    with ExitStack() as stack:
        targets = [pods[f"default/{name}"] for name in ("target", "far")]
        ends = [stack.enter_context(endpoint(pod.network, of(pod, version), PORT)) for pod in targets]
        assert not heard(*(Word(pods["default/confined"], (address, 0), end) for end in ends))


@pytest.mark.parametrize("whose", ["target", "elsewhere"])
def test_a_confined_pod_does_not_get_to_a_service_under_another_address(
    governed: Lab, whose: str, version: int
) -> None:
    """W10: policy leaves services to be judged behind IPVS, where nobody knows any more whose packet it is."""
    confined, free = governed.pods["default/confined"], governed.pods["default/free"]
    assert not served(governed, confined, _address(governed, whose, version))
    assert served(governed, confined, of(confined, version)), "traffic to services is judged by their endpoints"
    assert served(governed, free, of(free, version))
    assert not served(governed, free, of(confined, version))


def _address(lab: Lab, whose: str, version: int) -> str:
    match whose:
        case "node":
            return lab.node("node1").site.addresses[version == 6]
        case "gateway":
            return _gateway(lab, version)
        case "elsewhere":
            return ELSEWHERE[version == 6]
    return of(lab.pods[f"default/{whose}"], version)


class Injection(NamedTuple):
    """Who slips a word into whose flow to whom; `reply` says that it is from the end that did not begin the flow."""

    who: str
    client: str
    server: str
    reply: bool = False

    def __str__(self) -> str:
        return f"{self.who}-as-{self.server if self.reply else self.client}"


ORIGINAL = tuple(Injection(who, client, "closed") for who in ("free", "confined") for client in ("friend", "node"))
REPLIES = (Injection("free", "friend", "closed", reply=True), Injection("confined", "node", "closed", reply=True))
STRANGE = (Injection("confined", "outside", "closed"),)


@contextmanager
def opened(lab: Lab, flow: Injection, version: int) -> Iterator[tuple[tuple[str, int], socket.socket]]:
    """An open flow: the address from which to inject, and the end that would be deceived."""
    closed = lab.pods[f"default/{flow.server}"]
    networks = {"node": lab.node("node1").namespace, "outside": lab.fabric.outside}
    network = networks.get(flow.client) or lab.pods[f"default/{flow.client}"].network
    with ExitStack() as stack, netns.inside(network):
        client = stack.enter_context(closing(socket.socket(KIND[version], socket.SOCK_DGRAM)))
        client.connect((of(closed, version), PORT))
        server = stack.enter_context(endpoint(closed.network, of(closed, version), PORT))
        for end in (client, server):
            end.settimeout(2)
        client.send(b"question")
        assert server.recv(100) == b"question"
        server.sendto(b"answer", client.getsockname())
        assert client.recv(100) == b"answer"
        yield (server.getsockname()[:2], client) if flow.reply else (client.getsockname()[:2], server)


def injected(who: Pod, address: tuple[str, int], receiver: socket.socket) -> bool:
    return heard(Word(who, address, receiver))


@pytest.mark.parametrize("flow", [*ORIGINAL, *REPLIES, *STRANGE], ids=str)
def test_nobody_slips_a_word_into_the_open_flow_of_somebody_else(governed: Lab, flow: Injection, version: int) -> None:
    """W9, W10: that a flow is open says nothing of who has sent a packet with its numbers."""
    with opened(governed, flow, version) as (sender, receiver):
        assert not injected(governed.pods[f"default/{flow.who}"], sender, receiver)


def test_policy_for_what_a_pod_sends_leaves_what_it_answers_under_an_address_of_its_own_choice(
    governed: Lab, version: int
) -> None:
    confined, node = governed.pods["default/confined"], governed.node("node1")
    address = SECOND[version == 6]
    netns.configure(confined.network, f"addr add {address}/{32 if version == 4 else 128} dev lo")
    node.sh(f"ip route replace {address} via {of(confined, version)}")
    with endpoint(confined.network, address, PORT) as server, netns.inside(node.namespace):
        client = socket.socket(KIND[version], socket.SOCK_DGRAM)
        with closing(client):
            client.settimeout(2)
            client.connect((address, PORT))
            client.send(b"question")
            server.settimeout(2)
            _, peer = server.recvfrom(100)
            server.sendto(b"answer", peer)
            assert client.recv(100) == b"answer"
    assert not arrives(confined, governed.pods["default/target"], address)


@pytest.mark.parametrize("mark", ["0x1", "0x30000", "0x2000000"])
def test_a_mark_that_a_packet_brings_along_counts_for_nothing(governed: Lab, mark: str, version: int) -> None:
    """W11: neither as a verdict of before, nor as what the bridge has seen."""
    node = governed.node("node1")
    free, closed, confined, target = (
        governed.pods[f"default/{name}"] for name in ("free", "closed", "confined", "target")
    )
    rule = f"-j MARK --set-mark {mark}"
    tool = "iptables" if version == 4 else "ip6tables"
    node.sh(f"{tool} -t mangle -I PREROUTING {rule}")
    try:
        paths = ((free, closed), (confined, target), (free, target))
        tickets = [
            (source.prober, source.prober.send([Job(name, of(to, version), 80) for name in ("tcp", "udp")]))
            for source, to in paths
        ]
        found = [[result.allowed for result in prober.results(ticket)] for prober, ticket in tickets]
        assert found == [[False, False], [False, False], [True, True]]
        with ExitStack() as stack:
            at_closed, at_target = (
                stack.enter_context(endpoint(pod.network, of(pod, version), PORT)) for pod in (closed, target)
            )
            borrowed = [(_address(governed, whose, version), 0) for whose in ("free", "elsewhere")]
            words = [Word(free, borrowed[0], at_closed), *(Word(confined, each, at_target) for each in borrowed)]
            assert not heard(*words)
        for flow in STRANGE:
            with opened(governed, flow, version) as (sender, receiver):
                assert not injected(confined, sender, receiver)
    finally:
        node.sh(f"{tool} -t mangle -D PREROUTING {rule}")


def test_a_listener_of_the_host_in_the_node_port_range_is_judged_as_any_other(governed: Lab, version: int) -> None:
    """W20: only ports that a Service has are left to the proxy."""
    node = governed.node("node1")
    address = node.site.addresses[version == 6]
    with netns.inside(node.namespace):
        listener = socket.create_server((address, NODE_PORT), family=KIND[version])
    with listener:
        job = Job("tcp", address, NODE_PORT)
        confined, free = governed.pods["default/confined"], governed.pods["default/free"]
        with netns.inside(free.network):
            socket.create_connection((address, NODE_PORT), 2).close()
        # With IPv6 the kernel tells the refusal of a first SYN only at the second, a second later.
        assert confined.prober.probe([job], 2)[0].outcome.value == "refused"


def test_a_stolen_address_is_nobodys_when_the_daemon_comes_back(governed: Lab) -> None:
    """Which of two links had an address first is not to be seen any more: neither sends under it until one is gone."""
    node, closed = governed.node("node1"), governed.pods["default/closed"]
    thief, victim = (governed.pod(name, "node1", labels={"role": "friend"}) for name in ("thief", "victim"))
    stolen, gateway = victim.ip, _gateway(governed, 4)
    governed.wait(lambda: arrives(victim, closed, stolen), 10, "a friend let through")
    swap = [
        f"addr {verb} {address}/{length} dev eth0"
        for before, after, has, gets in ((thief.ip, stolen, 24, 32), (thief.ips[1], victim.ips[1], 64, 128))
        for verb, address, length in (("add", after, gets), ("del", before, has), ("add", before, gets))
    ]
    routes = (f"route replace {gateway} dev eth0", f"route replace default via {gateway}")
    netns.configure(thief.network, *swap, *routes)
    try:
        assert not arrives(thief, closed, stolen)
        assert arrives(victim, closed, stolen)
        node.restart_daemon()
        governed.wait(lambda: governed.check_alive() and node.ready(), 40, "the daemon ready")
        governed.wait(lambda: not arrives(victim, closed, stolen), 10, "an address that is nobody's")
        governed.wait(lambda: not arrives(thief, closed, thief.ip), 10, "what was known of the link forgotten")
        assert not arrives(thief, closed, stolen)
    finally:
        governed.remove_pod(thief)
    governed.wait(lambda: arrives(victim, closed, stolen), 10, "the victim's address is its own again")
    governed.remove_pod(victim)


def test_the_firewall_alone_has_bridged_packets_filtered(governed: Lab) -> None:
    """W16: whichever other controllers run."""
    for node in governed.nodes:
        for name in ("iptables", "ip6tables"):
            assert node.sh(f"cat /proc/sys/net/bridge/bridge-nf-call-{name}").strip() == "1"
