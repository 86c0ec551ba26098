"""Tunnels with real packets: ends and encapsulations change under traffic, and what an older release left gives way."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from kuberouter.drivers.fouports import FouPortDriver, LeftFouPortDriver
from kuberouter.drivers.network import LinkDriver, RouteDriver
from kuberouter.model.core import Batch, Family, Prefix
from kuberouter.model.network import (
    TABLE_MAIN,
    FouPort,
    FouPortKey,
    Link,
    LinkKey,
    LinkKind,
    Route,
    RouteKey,
)
from tests.kernel.conftest import need
from tests.kernel.drive import converge, owned, sh
from tests.support.lab import netns

V4, V6 = Family.IPV4, Family.IPV6
KINDS = {V4: LinkKind.IPIP, V6: LinkKind.IP6TNL}
OUTER = {V4: ("192.0.2.1", "192.0.2.2"), V6: ("2001:db8::1", "2001:db8::2")}
INNER = {V4: ("10.244.1.1", "10.244.2.1"), V6: ("fd44:1::1", "fd44:2::1")}
BITS = {V4: 32, V6: 128}
TUNNEL = {V4: "tun-4", V6: "tun-6"}


def packed(text: str) -> bytes:
    return ip_address(text).packed


def host(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def ports(*numbers: int) -> list[FouPort]:
    return [FouPort(FouPortKey(family, number)) for number in numbers for family in Family]


class End:
    """One of two nodes, in a namespace of its own, with a tunnel of each family to the other."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self._number = name, number
        with netns.inside(name):
            self.links, self.routes = LinkDriver((), ("tun-",)), RouteDriver((TABLE_MAIN,))
            self.ports = FouPortDriver(("tun-",))

    def tunnels(self, encap_port: int = 0) -> list[Link]:
        """The rows of its tunnels."""
        ends = {family: [packed(text) for text in texts] for family, texts in OUTER.items()}
        return [
            Link(
                LinkKey(TUNNEL[family]),
                KINDS[family],
                1400,
                ends[family][self._number],
                ends[family][1 - self._number],
                encap_port=encap_port,
            )
            for family in Family
        ]

    def reach(self) -> None:
        """Have the routes to the other's pods lead through the tunnels."""
        rows = []
        for family in Family:
            local, remote = INNER[family][self._number], INNER[family][1 - self._number]
            netns.configure(self.name, f"addr add {local}/{BITS[family]} dev lo")
            key = RouteKey(TABLE_MAIN, host(remote))
            rows.append(Route(key, devices=(TUNNEL[family],), source=packed(local)))
        assert converge(self.routes, rows) == {}


class Probe:
    """Pings from one end to the other's pod for as long as it lasts."""

    def __init__(self, end: End, family: Family) -> None:
        words = ["ip", "netns", "exec", end.name, "ping", "-n", "-i", "0.02", "-w", "60", INNER[family][1]]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def lost(self) -> int:
        """End it; how many of its packets got no answer. The last one may still be on its way."""
        self._process.send_signal(2)
        text, _ = self._process.communicate(timeout=20)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
        assert found is not None, text
        sent, received = int(found[1]), int(found[2])
        assert received > 10, text
        return max(0, sent - received - 1)


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    need("ipip")
    need("ip6tnl")
    need("fou")
    prefix = netns.unique_prefix()
    names = [f"{prefix}-a", f"{prefix}-b"]
    try:
        for name in names:
            netns.add(name)
        netns.configure(names[0], f"link add eth0 type veth peer name eth0 netns {names[1]}")
        for number, name in enumerate(names):
            four, six = OUTER[V4][number], OUTER[V6][number]
            netns.configure(name, "link set eth0 up", f"addr add {four}/24 dev eth0", f"addr add {six}/64 dev eth0")
        yield End(names[0], 0), End(names[1], 1)
    finally:
        for name in names:
            netns.remove(name)


def tunnels(end: End) -> set[str]:
    """The names of an end's tunnels; those that come with the modules have no other end."""
    return {link.key.name for link in end.links.read() if any(link.remote)}


def encapsulations(end: End) -> set[int]:
    """The UDP ports of an end's tunnels, 0 for IP in IP."""
    return {link.encap_port for link in end.links.read() if link.key.name.startswith("tun-")}


@pytest.mark.fou
def test_b13_encapsulation_and_port_change_under_traffic_and_the_links_stay(ends: tuple[End, End]) -> None:
    """A switch of encapsulation, and of its port, was unnoticed or took the tunnel and its routes away for a while."""
    a, b = ends
    for end in ends:
        assert converge(end.links, end.tunnels()) == {}
        end.reach()
        # Both ends take packets out of UDP before either sends any.
        assert converge(end.ports, ports(5555, 6666)) == {}
    before = {link.name: link.ifindex for link in a.links.links()}
    probes = [Probe(a, family) for family in Family]
    sh("sleep", "1")
    for port in (5555, 6666, 0, 5555):
        for end in ends:
            assert converge(end.links, end.tunnels(port)) == {}
            assert encapsulations(end) == {port}
            assert owned(end.links) == {row.key: row for row in end.tunnels(port)}
            sh("sleep", "0.3")
    four, six = (probe.lost() for probe in probes)
    assert four == 0
    # Linux takes an IPv6 tunnel out of its books for a moment whenever something of it changes (ip6_tnl_update).
    assert six <= 8, "more than a packet for each of eight changes"
    assert {link.name: link.ifindex for link in a.links.links()} == before
    assert len(owned(a.routes)) == 2
    assert converge(b.ports, ports(5555)) == {}
    assert owned(b.ports) == {row.key: row for row in ports(5555)}


@pytest.mark.fou
def test_packets_of_full_size_travel_in_udp_without_fragments(ends: tuple[End, End]) -> None:
    a, _ = ends
    sent = {V4: 32, V6: 60}
    for end in ends:
        assert converge(end.ports, ports(5555)) == {}
        rows = [
            Link(r.key, r.kind, 1500 - sent[f], r.local, r.remote, encap_port=5555)
            for f, r in zip(Family, end.tunnels(), strict=True)
        ]
        assert converge(end.links, rows) == {}
        end.reach()
    for family, headers in ((V4, 28), (V6, 48)):
        size = 1500 - sent[family] - headers
        words = ["ip", "netns", "exec", a.name, "ping", "-n", "-c", "3", "-i", "0.2", "-M", "do", "-s", str(size)]
        text = sh(*words, INNER[family][1])
        assert " 0% packet loss" in text
    fragments = sh("ip", "netns", "exec", a.name, "nstat", "-asz", "IpFragCreates", "Ip6FragCreates")
    assert [line.split()[1] for line in fragments.splitlines()[1:]] == ["0", "0"]


@pytest.mark.fou
def test_ports_of_former_tunnels_are_ours_and_others_are_not(ends: tuple[End, End]) -> None:
    a, _ = ends
    sh("ip", "-n", a.name, "fou", "add", "port", "7777", "gue")
    sh("ip", "-n", a.name, "fou", "add", "port", "8888", "ipproto", "4")
    assert converge(a.ports, ports(5555)) == {}
    assert converge(a.links, a.tunnels(5555)) == {}
    with netns.inside(a.name):
        fresh = FouPortDriver(("tun-",))
    assert owned(fresh) == {row.key: row for row in ports(5555)}
    assert converge(fresh, ports(6666)) == {}
    assert owned(fresh) == {row.key: row for row in ports(6666)}
    assert converge(fresh, []) == {}
    left = sh("ip", "-n", a.name, "fou", "show")
    assert "port 7777 gue" in left
    assert "port 8888 ipproto 4" in left
    taken = FouPort(FouPortKey(V4, 8888))
    assert converge(fresh, [taken]) == {taken.key: "UDP port 8888 is in use"}


@pytest.mark.fou
def test_cleanup_closes_our_port_that_no_tunnel_is_left_for_unless_others_use_it(ends: tuple[End, End]) -> None:
    """Where all nodes are neighbours there is the port and no tunnel."""
    a, _ = ends
    for words in ("", "-6"):
        sh("ip", *words.split(), "-n", a.name, "fou", "add", "port", "5555", "gue")
    remote = ("local", "192.0.2.1", "remote", "192.0.2.9", "encap", "gue", "encap-dport", "5555")
    sh("ip", "-n", a.name, "link", "add", "theirs", "type", "ipip", *remote)
    with netns.inside(a.name):
        assert owned(LeftFouPortDriver(("tun-",), 6666)) == {}
        left = LeftFouPortDriver(("tun-",), 5555)
    assert [key.family for key in owned(left)] == [Family.IPV6]
    sh("ip", "-n", a.name, "link", "del", "theirs")
    assert len(owned(left)) == 2
    assert converge(left, []) == {}
    assert "5555" not in sh("ip", "-n", a.name, "fou", "show")


@pytest.mark.fou
def test_a_tunnel_under_a_former_name_gives_way_and_a_foreign_one_does_not(ends: tuple[End, End]) -> None:
    a, _ = ends
    (row, _) = a.tunnels()
    sh("ip", "-n", a.name, "link", "add", "tun-1921681", "type", "ipip", "local", "192.0.2.1", "remote", "192.0.2.2")
    failed = a.links.write(Batch((row,))).failed
    assert failed == {}
    assert tunnels(a) == {row.key.name}
    assert converge(a.links, []) == {}
    sh("ip", "-n", a.name, "link", "add", "theirs", "type", "ipip", "local", "192.0.2.1", "remote", "192.0.2.2")
    assert a.links.write(Batch((row,))).failed == {row.key: "another link has the same end points"}
    assert tunnels(a) == {"theirs"}


@pytest.mark.fou
def test_two_tunnels_that_swap_their_ends_both_stand(ends: tuple[End, End]) -> None:
    a, _ = ends
    local, one, two = packed("192.0.2.1"), packed("198.51.100.1"), packed("198.51.100.2")
    names = [LinkKey("tun-1"), LinkKey("tun-2")]
    rows = [Link(key, LinkKind.IPIP, 1480, local, end) for key, end in zip(names, (one, two), strict=True)]
    assert converge(a.links, rows) == {}
    swapped = [Link(key, LinkKind.IPIP, 1480, local, end) for key, end in zip(names, (two, one), strict=True)]
    assert converge(a.links, swapped) == {}
    assert owned(a.links) == {row.key: row for row in swapped}


def test_without_the_module_a_port_fails_alone(namespace: str) -> None:
    if netns.have("fou"):
        pytest.skip("this kernel has fou")
    driver = FouPortDriver(("tun-",))
    (row, _) = ports(5555)
    assert list(driver.read()) == []
    assert converge(driver, [row]) == {row.key: "kernel module fou is missing"}
    assert converge(driver, []) == {}
