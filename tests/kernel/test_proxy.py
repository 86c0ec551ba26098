"""The service proxy in the kernel: real connections through service addresses and node ports, in both families."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kuberouter.compilers.names import (
    DUMMY_LINK,
    HAIRPIN_SET,
    SNAT_CHAIN,
)
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Upserted
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.kernel.conftest import need
from tests.kernel.drive import sh
from tests.kernel.proxynode import (
    BOUND,
    CLIENT,
    CLIENT_PORT,
    HOST_PORT,
    NODE_ADDRESS,
    PODS,
    PROMPT,
    PROTOCOLS,
    SECOND_CLIENT,
    SETTINGS,
    STALL,
    TARGET,
    Net,
    Proxy,
    ask,
    failures,
    in_client,
    on_client_port,
    seen,
    vips,
)
from tests.support.lab import netns
from tests.support.probes import Outcome

pytestmark = [pytest.mark.root, pytest.mark.ipvs, pytest.mark.dummy]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    need("ip_vs")
    need("dummy")
    net = Net()
    try:
        net.build()
        with netns.inside(net.node):
            proxy = Proxy(net)
            proxy.service("web", 10, "pod2", "far", node_port=30080)
            assert not failures(proxy)
            yield proxy
    finally:
        net.remove()


@pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("protocol", [*PROTOCOLS[:2], pytest.param("sctp", marks=pytest.mark.sctp)])
def test_a_service_address_answers_pods_the_node_and_the_outside(proxy: Proxy, protocol: str, index: int) -> None:
    if protocol == "sctp":
        need("sctp")
    vip, node = vips(10)[index], NODE_ADDRESS[index]
    pod, client = PODS["pod1"][index], CLIENT[index]
    assert seen(proxy.tries("pod1", protocol, vip)) == {"pod2": pod, "far": pod}
    assert seen(proxy.tries("node", protocol, vip)) == {"pod2": node, "far": node}
    assert seen(proxy.tries("client", protocol, vip)) == {"pod2": client, "far": node}


@pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("protocol", [*PROTOCOLS[:2], pytest.param("sctp", marks=pytest.mark.sctp)])
def test_a_node_port_answers_the_outside(proxy: Proxy, protocol: str, index: int) -> None:
    if protocol == "sctp":
        need("sctp")
    results = proxy.tries("client", protocol, NODE_ADDRESS[index], 30080)
    assert seen(results) == {"pod2": CLIENT[index], "far": NODE_ADDRESS[index]}


@pytest.mark.parametrize("source", ["client", "pod1", "node"])
def test_the_guard_refuses_ports_that_nobody_serves_at_once(proxy: Proxy, source: str) -> None:
    for vip in vips(10):
        for protocol in ("tcp", "udp"):
            for port in (HOST_PORT, 9):
                (result,) = proxy.tries(source, protocol, vip, port, count=1)
                assert result.outcome is Outcome.REFUSED, (vip, protocol, port, result)
                assert result.seconds < PROMPT
    answers = proxy.tries("client", "tcp", NODE_ADDRESS[0], HOST_PORT, count=1)
    assert seen(answers) == {"node": CLIENT[0]}, "the node's own ports stay open beside its node ports"
    (ping,) = proxy.tries("client", "icmp", vips(10)[0], 0, count=1)
    assert ping.allowed


def test_without_its_sets_the_guard_refuses_nothing_of_the_node_itself(proxy: Proxy) -> None:
    sets = [f"{family}kube-router-{name}" for family in ("", "inet6:") for name in ("local-ips", "svip", "svip-prt")]
    try:
        for name in sets:
            sh("ipset", "flush", name)
            for index, address in enumerate(NODE_ADDRESS):
                assert seen(proxy.tries("client", "tcp", address, HOST_PORT, count=1)) == {"node": CLIENT[index]}, name
                assert set(seen(proxy.tries("client", "tcp", address, 30080, count=2))) == {"pod2", "far"}, name
    finally:
        proxy.audit()
    (result,) = proxy.tries("client", "tcp", vips(10)[0], HOST_PORT, count=1)
    assert result.outcome is Outcome.REFUSED


def test_a_load_balancer_asks_for_health_at_its_own_address(proxy: Proxy) -> None:
    proxy.service("balanced", 18, "pod2")
    outer = [vip.replace("0.18", "0.118").replace("::12", "::76") for vip in vips(18)]
    ports = [{"name": "tcp", "protocol": "TCP", "port": 80}]
    spec = {"type": "LoadBalancer", "clusterIP": vips(18)[0], "clusterIPs": list(vips(18)), "ports": ports}
    spec |= {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32018}
    status = {"loadBalancer": {"ingress": [{"ip": address} for address in outer]}}
    metadata = {"name": "balanced", "namespace": "shop"}
    proxy.apply({"kind": "Service", "metadata": metadata, "spec": spec, "status": status})
    assert not failures(proxy)
    for address in (*outer, *NODE_ADDRESS):
        with netns.inside(proxy.net.client), socket.create_connection((address, 32018), BOUND) as connection:
            connection.send(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert b" 200 " in connection.recv(256).partition(b"\r\n")[0]
    for address in outer:
        (result,) = proxy.tries("client", "tcp", address, HOST_PORT, count=1)
        assert result.outcome is Outcome.REFUSED
    # A process that begins while this one lives could not have the port as well.
    slices = (ObjectRef("EndpointSlice", "shop", f"balanced-{family}") for family in ("IPv4", "IPv6"))
    proxy.delete(ObjectRef("Service", "shop", "balanced"), *slices)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_service_without_endpoints_refuses_until_it_has_one(proxy: Proxy, protocol: str) -> None:
    proxy.service("empty", 11)
    for vip in vips(11):
        for source in ("client", "pod1"):
            (result,) = proxy.tries(source, protocol, vip, count=1)
            assert result.outcome is Outcome.REFUSED, (source, vip, result)
            assert result.seconds < PROMPT
    proxy.apply(*proxy.slices("empty", "pod2"))
    for vip in vips(11):
        assert set(seen(proxy.tries("client", protocol, vip))) == {"pod2"}


def test_a_removed_endpoint_gets_no_more_connections(proxy: Proxy) -> None:
    proxy.service("moving", 12, "pod1", "pod2", "far")
    for vip in vips(12):
        assert set(seen(proxy.tries("client", "tcp", vip, count=6))) == {"pod1", "pod2", "far"}
    assert proxy.apply(*proxy.slices("moving", "pod1", "far")) == 2 * len(PROTOCOLS)
    for vip in vips(12):
        assert set(seen(proxy.tries("client", "tcp", vip, count=6))) == {"pod1", "far"}
    proxy.apply(*proxy.slices("moving", "far"))
    for vip in vips(12):
        assert set(seen(proxy.tries("pod1", "udp", vip, count=6))) == {"far"}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_endpoint_reaches_itself_through_every_address_of_its_service(proxy: Proxy, protocol: str) -> None:
    metadata = {"annotations": {"kube-router.io/service.hairpin": ""}}
    external, balanced = vips(140), vips(141)
    spec = {"type": "LoadBalancer", "externalIPs": list(external)}
    proxy.service("self", 40, "pod1", node_port=30040, ingress=balanced, metadata=metadata, **spec)
    # What counts is the endpoint with its port, whichever of its Services asks for it.
    proxy.service("selfless", 41, "pod2")
    proxy.world.put(Upserted(PodLink(ObjectRef("PodLink", "", "veth0"), (ip_address(PODS["pod1"][0]).packed,), True)))
    proxy.world.sync()
    assert not failures(proxy)
    for index in range(2):
        reach_themselves(proxy, protocol, index)
        assert seen(proxy.tries("pod2", protocol, vips(40)[index], count=2)) == {"pod1": PODS["pod2"][index]}
        (result,) = proxy.tries("pod2", protocol, vips(41)[index], count=1)
        assert result.outcome is Outcome.DROPPED
    rules = hairpin_rules()
    for _ in range(3):
        assert proxy.restart() == 0, proxy.world.report.batches
        assert hairpin_rules() == rules, "a restart adds nothing"
    assert [line.count(HAIRPIN_SET) for line in rules] == [1, 1], "one rule in each family"
    for index in range(2):
        reach_themselves(proxy, protocol, index)


def reach_themselves(proxy: Proxy, protocol: str, index: int) -> None:
    """The pod reaches itself through each address of its Service, and sees the node."""
    address = NODE_ADDRESS[index]
    targets = [(vips(number)[index], 80) for number in (40, 140, 141)]
    for target, port in (*targets, (address, 30040)):
        assert seen(proxy.tries("pod1", protocol, target, port, count=2)) == {"pod1": address}, target


def hairpin_rules() -> list[str]:
    """What stands in the kernel for endpoints that reach themselves, whoever put it there."""
    return [
        line
        for tool in ("iptables", "ip6tables")
        for line in sh(f"{tool}-save", "-t", "nat").splitlines()
        if "hairpin" in line.lower()
    ]


def test_a_udp_flow_leaves_a_removed_endpoint(proxy: Proxy) -> None:
    proxy.service("flow", 13, "pod1", "pod2")
    with in_client(proxy, socket.SOCK_DGRAM) as flow:
        flow.connect((vips(13)[0], 80))
        first = ask(flow)
        assert first in ("pod1", "pod2")
        assert ask(flow) == first
        (left,) = {"pod1", "pod2"} - {first}
        proxy.apply(*proxy.slices("flow", left))
        answers = [ask(flow) for _ in range(3)]
    assert answers[1:] == [left, left], "with conntrack one packet is lost, no more"
    assert first not in answers


def server_of(proxy: Proxy, address: str, vip: str) -> str:
    """Who answers a TCP connection from one of the client's addresses."""
    with in_client(proxy, socket.SOCK_STREAM, address) as connection:
        connection.connect((vip, 80))
        return connection.recv(256).decode().split(" ")[0]


def test_session_affinity_is_by_client_address(proxy: Proxy) -> None:
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}
    proxy.service("sticky", 14, "pod1", "pod2", **affinity)
    for vip in vips(14):
        assert len(seen(proxy.tries("client", "tcp", vip, count=6))) == 1
    vip = vips(14)[0]
    mine, theirs = (Counter(server_of(proxy, address, vip) for _ in range(3)) for address in (CLIENT[0], SECOND_CLIENT))
    assert (len(mine), len(theirs)) == (1, 1)
    assert set(mine) != set(theirs), "round robin gives a second client the other pod: they are not one bucket"
    for left in ("pod1", "pod2"):
        # Whoever was with the pod that goes is with the other one from the next connection on.
        proxy.apply(*proxy.slices("sticky", left))
        assert [server_of(proxy, address, vip) for address in (CLIENT[0], SECOND_CLIENT)] == [left, left]
        assert set(seen(proxy.tries("client", "tcp", vips(14)[1], count=2))) == {left}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])
def test_a_client_port_that_is_used_again_meets_no_dead_pod_and_no_stall(proxy: Proxy, index: int, reset: bool) -> None:
    """Pain 2: IPVS remembers the connection of that port, and who took it."""
    name, number = f"reused-{index}-{reset}", 18 + index + 2 * reset
    proxy.service(name, number, "pod1", "pod2")
    vip = vips(number)[index]
    # A port of its own, for the pods remember that of another service address as well.
    port = CLIENT_PORT + number
    servers = Counter(from_one_port(proxy, (vip, 80), port, reset=reset) for _ in range(6))
    assert set(servers) == {"pod1", "pod2"}, "each is balanced anew"
    for _ in range(3):
        for left in ("pod1", "pod2"):
            proxy.apply(*proxy.slices(name, left))
            assert from_one_port(proxy, (vip, 80), port, reset=reset) == left
    proxy.delete(ObjectRef("Service", "shop", name))


def from_one_port(proxy: Proxy, target: tuple[str, int], port: int, *, reset: bool) -> str:
    """Who answers a connection from always the same port of the client, which closes it in the end, or resets it."""
    with on_client_port(proxy.net.client, port, six=":" in target[0]) as made:
        began = time.monotonic()
        made.connect(target)
        took = time.monotonic() - began
        server = made.recv(256).decode().split(" ")[0]
        # Nothing of the last connection may be on its way any more when the next one begins.
        assert made.recv(256) == b""
        if reset:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert took < STALL, server
    return server


def test_a_service_that_loses_its_address_comes_back_when_the_winner_goes(proxy: Proxy) -> None:
    proxy.service("young", 15, "pod1")
    old = {"name": "old", "namespace": "shop", "creationTimestamp": "2020-01-01T00:00:00Z"}
    proxy.service("old", 16, "pod2")
    spec = {"clusterIP": vips(15)[0], "ports": [{"name": "tcp", "protocol": "TCP", "port": 80}]}
    proxy.apply({"kind": "Service", "metadata": old, "spec": spec})
    assert set(seen(proxy.tries("client", "tcp", vips(15)[0]))) == {"pod2"}
    assert set(seen(proxy.tries("client", "udp", vips(15)[0]))) == {"pod1"}
    proxy.delete(ObjectRef("Service", "shop", "old"))
    assert set(seen(proxy.tries("client", "tcp", vips(15)[0]))) == {"pod1"}


def test_a_restart_finds_its_own_removes_orphans_and_spares_foreign_services(proxy: Proxy) -> None:
    proxy.service("orphan", 17, "pod1")
    foreign = ("198.51.100.9:99", "203.0.113.7:98")
    sh("ipvsadm", "-A", "-t", foreign[0], "-s", "wrr")
    sh("ipvsadm", "-a", "-t", foreign[0], "-r", foreign[1], "-m", "-w", "7")
    try:
        assert proxy.restart() == 0, proxy.world.report.batches
        with in_client(proxy, socket.SOCK_DGRAM) as flow:
            flow.connect((vips(10)[0], 80))
            before = ask(flow)
            for kind, name in (
                ("Service", "orphan"),
                ("EndpointSlice", "orphan-IPv4"),
                ("EndpointSlice", "orphan-IPv6"),
            ):
                del proxy.objects[ObjectRef(kind, "shop", name)]
            assert proxy.restart() > 0
            assert ask(flow) == before, "a restart moves nobody"
        listed = sh("ipvsadm", "-Sn")
        assert vips(17)[0] not in listed
        assert vips(17)[1] not in listed
        assert f"-A -t {foreign[0]} -s wrr" in listed
        assert f"-a -t {foreign[0]} -r {foreign[1]} -m -w 7" in listed
        assert vips(17)[0] not in sh("ip", "addr", "show", "dev", DUMMY_LINK)
        assert set(seen(proxy.tries("client", "tcp", vips(10)[0]))) == {"pod2", "far"}
    finally:
        sh("ipvsadm", "-D", "-t", foreign[0])


def test_an_audit_mends_what_others_broke(proxy: Proxy) -> None:
    vip, six = vips(10)
    assert proxy.audit() == 0
    sh("ipvsadm", "-D", "-t", f"{vip}:80")
    sh("ipvsadm", "-d", "-u", f"[{six}]:80", "-r", f"[{PODS['far'][1]}]:{TARGET}")
    sh("ip", "addr", "del", f"{six}/128", "dev", DUMMY_LINK)
    sh("iptables", "-F", SNAT_CHAIN, "-t", "nat")
    sh("ipset", "del", "kube-router-svip-prt", f"{vip},tcp:80")
    Path("/proc/sys/net/ipv4/vs/conntrack").write_text("0")
    assert proxy.audit() > 0
    assert proxy.audit() == 0
    assert seen(proxy.tries("client", "tcp", vip)) == {"pod2": CLIENT[0], "far": NODE_ADDRESS[0]}
    assert seen(proxy.tries("client", "udp", six)) == {"pod2": CLIENT[1], "far": NODE_ADDRESS[1]}


def test_local_routes_serve_as_well_and_either_way_takes_over_from_the_other(proxy: Proxy) -> None:
    routes = ProxySettings(addresses=AddressRules(strict=False), local_routes=True)
    for settings, link in ((routes, False), (SETTINGS, True)):
        with in_client(proxy, socket.SOCK_DGRAM) as flow:
            flow.connect((vips(10)[0], 80))
            before = ask(flow)
            assert proxy.restart(settings) > 0
            assert not failures(proxy)
            assert ask(flow) == before, "a change of the mode moves nobody"
        assert (f"{vips(10)[0]}/32" in sh("ip", "addr")) == link
        assert (DUMMY_LINK in sh("ip", "-br", "link")) == link
        for index, vip in enumerate(vips(10)):
            pod, node = PODS["pod1"][index], NODE_ADDRESS[index]
            assert seen(proxy.tries("pod1", "tcp", vip)) == {"pod2": pod, "far": pod}
            assert seen(proxy.tries("node", "udp", vip)) == {"pod2": node, "far": node}
            assert seen(proxy.tries("client", "tcp", vip)) == {"pod2": CLIENT[index], "far": node}
            (result,) = proxy.tries("client", "tcp", vip, HOST_PORT, count=1)
            assert result.outcome is Outcome.REFUSED
