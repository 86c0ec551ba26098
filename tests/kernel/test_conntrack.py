"""Stale flows against this kernel's connection tracking: what has to go goes, everything beside it stays.

Nothing here needs IPVS: flows are remembered as the kernel remembers them, and the question is which of them go.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from kuberouter.daemon.worker import Worker
from kuberouter.drivers.conntrack import MOST_ASKED, StaleFlows
from kuberouter.engine.inbox import Inbox
from kuberouter.model.core import Family, L4Protocol
from kuberouter.model.ipvs import VirtualServiceKey
from kuberouter.wire import conntrack
from kuberouter.wire.conntrack import Flow
from kuberouter.wire.netlink import NetlinkSocket
from tests.kernel.drive import sh

pytestmark = pytest.mark.root

VIPS = {Family.IPV4: ("10.96.0.10", "10.96.0.11"), Family.IPV6: ("fd96::10", "fd96::11")}
SOCKET = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
FAMILIES = pytest.mark.parametrize("family", list(Family), ids=["ipv4", "ipv6"])
BOUND = 20.0


class Host:
    """A namespace that tracks connections, has all addresses itself, and sends to them."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def build(self) -> None:
        sh("ip", "link", "set", "lo", "up")
        for family in Family:
            for address in VIPS[family]:
                words = (
                    (f"{address}/128", "dev", "lo", "nodad")
                    if family is Family.IPV6
                    else (f"{address}/32", "dev", "lo")
                )
                sh("ip", "addr", "add", *words)
        # The kernel makes the local routes of IPv6 addresses a moment later. Until then packets to them get lost.
        end = time.monotonic() + BOUND
        while not all(f"local {a} " in sh("ip", "-6", "route", "show", "table", "local") for a in VIPS[Family.IPV6]):
            assert time.monotonic() < end
        for tool in ("iptables", "ip6tables"):
            # Nothing is tracked before a rule asks for it.
            sh(tool, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")

    def udp(self, family: Family, address: str, port: int, clients: int = 1) -> None:
        """Somebody who listens, and datagrams from several clients, which have arrived and so are remembered."""
        listener = self._socket(family, socket.SOCK_DGRAM)
        listener.settimeout(BOUND)
        listener.bind((address, port))
        for _ in range(clients):
            self._socket(family, socket.SOCK_DGRAM).sendto(b"word", (address, port))
            assert listener.recv(64) == b"word"

    def tcp(self, family: Family, address: str, port: int) -> None:
        """An open connection."""
        listener = self._socket(family, socket.SOCK_STREAM)
        listener.bind((address, port))
        listener.listen()
        self._socket(family, socket.SOCK_STREAM).connect((address, port))
        self._stack.enter_context(listener.accept()[0])

    def _socket(self, family: Family, kind: socket.SocketKind) -> socket.socket:
        return self._stack.enter_context(socket.socket(SOCKET[family], kind))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def host(namespace: str) -> Iterator[Host]:
    del namespace
    host = Host()
    try:
        host.build()
        yield host
    finally:
        host.close()


def flows(protocol: L4Protocol = L4Protocol.UDP) -> list[tuple[str, int]]:
    """Where the flows go that the kernel remembers, as conntrack(8) has them."""
    found: list[tuple[str, int]] = []
    for family in ("ipv4", "ipv6"):
        for line in sh("conntrack", "-L", "-f", family, "-p", protocol.name.lower()).splitlines():
            words = dict(reversed([word.split("=") for word in line.split() if "=" in word]))
            # Of each name the first counts, which is that of the original direction.
            found.append((words["dst"], int(words["dport"])))
    return sorted(found)


def key(address: str, port: int = 53) -> VirtualServiceKey:
    packed = ip_address(address).packed
    family = Family.IPV4 if len(packed) == 4 else Family.IPV6
    return VirtualServiceKey(family, L4Protocol.UDP, packed, port)


@FAMILIES
def test_the_flows_of_one_service_go_and_all_others_stay(host: Host, family: Family) -> None:
    vip, neighbour = VIPS[family]
    for each in Family:
        for address in VIPS[each]:
            host.udp(each, address, 53, clients=3)
            host.udp(each, address, 54)
            host.tcp(each, address, 53)
    udp, tcp = flows(), flows(L4Protocol.TCP)
    assert udp.count((vip, 53)) == 3
    stale = StaleFlows()
    stale.sweep({key(vip): frozenset()})
    assert flows() == [flow for flow in udp if flow != (vip, 53)]
    assert flows(L4Protocol.TCP) == tcp
    assert stale.removed == 3
    assert (neighbour, 53) in udp


@FAMILIES
def test_flows_that_an_endpoint_answers_stay(host: Host, family: Family) -> None:
    vip, neighbour = VIPS[family]
    host.udp(family, vip, 53, clients=2)
    answering = (ip_address(vip).packed, 53)
    stale = StaleFlows()
    stale.sweep({key(vip): frozenset((answering, (ip_address(neighbour).packed, 53)))})
    assert flows().count((vip, 53)) == 2
    stale.sweep({key(vip): frozenset(((answering[0], 54),))})
    assert flows() == []


def test_the_flows_of_many_services_go_at_once(host: Host) -> None:
    ports = range(1000, 1000 + 2 * MOST_ASKED)
    for family in Family:
        for port in ports:
            host.udp(family, VIPS[family][0], port)
        host.udp(family, VIPS[family][1], ports[0])
    StaleFlows().sweep({key(VIPS[family][0], port): frozenset() for family in Family for port in ports})
    assert flows() == sorted((VIPS[family][1], ports[0]) for family in Family)


def test_thousands_of_flows_go_in_batches(host: Host) -> None:
    vip, neighbour = VIPS[Family.IPV4]
    with contextlib.ExitStack() as stack:
        stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind((vip, 53))
        for port in range(20000, 22000):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((neighbour, port))
                client.sendto(b"word", (vip, 53))
    host.udp(Family.IPV4, neighbour, 54)
    stale = StaleFlows()
    stale.sweep({key(vip): frozenset()})
    assert stale.removed == 2000
    assert flows() == [(neighbour, 54)]


@FAMILIES
def test_a_flow_is_deleted_by_its_number(host: Host, family: Family) -> None:
    """What has taken the place of a flow that was seen stays."""
    vip = VIPS[family][0]
    host.udp(family, vip, 53)
    with NetlinkSocket(conntrack.NETLINK_NETFILTER) as link:
        (body,) = link.dump(conntrack.GET, conntrack.dump_request(int(family), int(L4Protocol.UDP), port=53))
        request = conntrack.delete_request(body)
        assert request is not None
        other = request[:-4] + bytes(byte ^ 255 for byte in request[-4:])
        assert link.transact([(conntrack.DELETE, 0, other)]) != [0]
        assert flows() == [(vip, 53)]
        assert link.transact([(conntrack.DELETE, 0, request)]) == [0]
    assert flows() == []


@FAMILIES
def test_a_flow_is_read_as_the_kernel_says_it(host: Host, family: Family) -> None:
    vip = VIPS[family][0]
    packed = ip_address(vip).packed
    host.udp(family, vip, 53)
    with NetlinkSocket(conntrack.NETLINK_NETFILTER) as link:
        (body,) = link.dump(conntrack.GET, conntrack.dump_request(int(family), int(L4Protocol.UDP), packed, 53))
    assert conntrack.parse_flow(body) == Flow(17, packed, 53, packed, 53)
    # The slow way, for flows of another shape: the same with something before the tuples.
    odd = body[:4] + b"\x08\x00\x07\x00\x00\x00\x00\x01" + body[4:]
    assert conntrack.parse_flow(odd) == Flow(17, packed, 53, packed, 53)


def test_a_flow_in_a_zone_of_somebody_else_stays(host: Host) -> None:
    vip = VIPS[Family.IPV4][0]
    sh("iptables", "-t", "raw", "-A", "OUTPUT", "-d", vip, "-j", "CT", "--zone", "7")
    sh("iptables", "-t", "raw", "-A", "PREROUTING", "-d", vip, "-j", "CT", "--zone", "7")
    host.udp(Family.IPV4, vip, 53)
    assert flows() == [(vip, 53)]
    stale = StaleFlows()
    stale.sweep({key(vip): frozenset()})
    assert flows() == [(vip, 53)]
    assert not stale.removed


def test_the_worker_does_what_is_asked_without_holding_up_who_asks(host: Host, namespace: str) -> None:
    from tests.support.lab import netns

    vip, neighbour = VIPS[Family.IPV4]
    host.udp(Family.IPV4, vip, 53, clients=2)
    host.udp(Family.IPV4, neighbour, 53)
    stale, done, stop = StaleFlows(), queue.SimpleQueue[int](), threading.Event()

    def work(wait: float) -> None:
        with netns.inside(namespace):
            stale.work(wait)
        done.put(stale.removed)

    worker = Worker("stale flows", work, "not found")
    thread = threading.Thread(target=worker.run, args=(Inbox(), stop))
    thread.start()
    try:
        # The last word on a service counts.
        stale.check(key(neighbour), frozenset())
        stale.check(key(neighbour), frozenset(((ip_address(neighbour).packed, 53),)))
        stale.check(key(vip), frozenset())
        while done.get(timeout=BOUND) < 2:
            pass
    finally:
        stop.set()
        thread.join(BOUND)
    assert flows() == [(neighbour, 53)]
    assert not worker.trouble
