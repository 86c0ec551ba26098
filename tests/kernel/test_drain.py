"""Endpoints that go while clients are connected to them, in the kernel: TCP stays to its end, UDP moves.

The two pods, the node and the client of `test_proxy`; both ends of every flow are in this process.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from kuberouter.compilers.names import DUMMY_LINK
from kuberouter.model.core import ObjectRef
from tests.kernel.conftest import need
from tests.kernel.draining import Draining, weights
from tests.kernel.drive import sh
from tests.kernel.proxynode import (
    CLIENT_PORT,
    NODE_ADDRESS,
    PODS,
    STALL,
    Net,
    ask,
    in_client,
    on_client_port,
    vips,
)
from tests.support.lab import netns

pytestmark = [pytest.mark.root, pytest.mark.ipvs, pytest.mark.dummy]

INDEX = pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def proxy() -> Iterator[Draining]:
    need("ip_vs")
    need("dummy")
    net = Net()
    try:
        net.wire_up()
        with netns.inside(net.node):
            proxy = Draining(net)
            with contextlib.closing(proxy):
                yield proxy
    finally:
        net.remove()


@INDEX
def test_a_live_connection_goes_on_while_new_ones_go_elsewhere_until_it_ends(proxy: Draining, index: int) -> None:
    vip = vips(20 + index)[index]
    name = f"leaving-{index}"
    proxy.talks(name, 20 + index, "pod1", "pod2")
    talk = proxy.connect(vip)
    (other,) = {"pod1", "pod2"} - {talk.pod}
    assert proxy.serve(name, other) == 2, "one destination in each family"
    assert weights(vip) == {talk.pod: 0, other: 1}
    assert proxy.takers(vip) == {other}
    assert talk.goes_on()
    # It returns: taken back in place, and the connection has noticed nothing.
    assert proxy.serve(name, "pod1", "pod2") == 2
    assert weights(vip) == {talk.pod: 1, other: 1}
    assert proxy.takers(vip) == {"pod1", "pod2"}
    assert talk.goes_on()
    # It goes again; the other family has no connection, so there the destination goes first.
    proxy.serve(name, other)
    proxy.await_idle(1)
    assert talk.goes_on()
    assert weights(vip) == {talk.pod: 0, other: 1}
    talk.close()
    proxy.await_idle(1)
    assert weights(vip) == {other: 1}


def test_a_restart_in_the_middle_goes_on_and_the_deadline_ends_it(proxy: Draining) -> None:
    vip = vips(22)[0]
    proxy.talks("restarted", 22, "pod1", "pod2")
    talk = proxy.connect(vip)
    (other,) = {"pod1", "pod2"} - {talk.pod}
    proxy.serve("restarted", other)
    assert proxy.restart() == 0, proxy.world.report.batches
    proxy.world.sync()
    assert weights(vip) == {talk.pod: 0, other: 1}
    assert talk.goes_on()
    proxy.world.now = 29.0
    assert proxy.world.sync() == 0
    proxy.world.now = 31.0
    assert proxy.world.sync() == 2
    assert weights(vip) == {other: 1}
    with pytest.raises(ConnectionResetError):
        # With connection tracking the first word is lost, and its repetition is refused.
        talk.goes_on() or talk.goes_on()
    talk.close()


def test_scaled_to_zero_a_connection_goes_on_and_new_ones_are_refused(proxy: Draining) -> None:
    vip = vips(23)[0]
    proxy.talks("zero", 23, "pod1", "pod2")
    talk = proxy.connect(vip)
    proxy.serve("zero")
    assert weights(vip) == {"pod1": 0, "pod2": 0}
    assert talk.goes_on()
    with pytest.raises(ConnectionRefusedError):
        proxy.connect(vip)
    talk.close()
    proxy.await_idle(4)
    assert weights(vip) == {}


def test_a_client_that_is_held_to_a_pod_is_let_go_when_that_drains(proxy: Draining) -> None:
    vip = vips(25)[0]
    proxy.talks("held", 25, "pod1", "pod2", sessionAffinity="ClientIP")
    talk = proxy.connect(vip)
    assert proxy.takers(vip) == {talk.pod}
    (other,) = {"pod1", "pod2"} - {talk.pod}
    proxy.serve("held", other)
    assert weights(vip) == {talk.pod: 0, other: 1}
    assert proxy.takers(vip) == {other}
    assert talk.goes_on()
    talk.close()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@INDEX
def test_a_client_port_that_is_used_again_meets_no_pod_that_drains_and_no_stall(
    proxy: Draining, index: int, reset: bool
) -> None:
    """Pain 2, where the pod of the last connection is still there."""
    number = 26 + index + 2 * reset
    name, vip = f"reused-{index}-{reset}", vips(number)[index]
    proxy.talks(name, number, "pod1", "pod2")
    for _ in range(3):
        for left in ("pod1", "pod2"):
            proxy.serve(name, left)
            made = on_client_port(proxy.net.client, CLIENT_PORT + number, six=":" in vip)
            began = time.monotonic()
            talk = proxy.connect(vip, made)
            took = time.monotonic() - began
            assert (talk.pod, weights(vip)[left]) == (left, 1)
            assert took < STALL
            if reset:
                talk.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                talk.client.close()
                with pytest.raises(ConnectionResetError):
                    talk.server.recv(64)
            else:
                talk.server.close()
                assert talk.client.recv(64) == b""
            talk.close()
    proxy.delete(ObjectRef("Service", "shop", name))


def test_a_hashing_scheduler_refuses_nobody(proxy: Draining) -> None:
    """Without weight the clients that are hashed there would be refused, so the destination goes at once."""
    vip = vips(24)[0]
    proxy.talks("hashed", 24, "pod1", "pod2", scheduler="sh")
    talk = proxy.connect(vip)
    (other,) = {"pod1", "pod2"} - {talk.pod}
    talk.close()
    proxy.serve("hashed", other)
    assert weights(vip) == {other: 1}
    assert proxy.takers(vip, 2) == {other}


@INDEX
@pytest.mark.parametrize("place", ["cluster address", "node port"])
def test_a_udp_flow_from_before_the_service_is_not_lost_for_ever(proxy: Draining, place: str, index: int) -> None:
    number, node_port = 30 + index, 30130 + index + 2 * (place == "node port")
    number += 2 * (place == "node port")
    target = (vips(number)[index], 80) if place == "cluster address" else (NODE_ADDRESS[index], node_port)
    if place == "cluster address":
        # The way that packets to an address take which nobody serves yet: to wherever the routes lead.
        sh("ip", "route", "add", target[0], "via", ("192.0.2.2", "2001:db8::2")[index])
    with client_socket(proxy, index) as flow, client_socket(proxy, index) as foreign:
        flow.connect(target)
        foreign.connect((NODE_ADDRESS[index], 9))
        for each in (flow, foreign):
            with contextlib.suppress(ConnectionRefusedError):
                assert ask(each) == ""
        before = remembered(9)
        # It does not stop while the Service comes up: between its endpoints and its address there is a moment.
        proxy.between = lambda: say(flow)
        try:
            proxy.service(f"late-{number}", number, "pod1", "pod2", node_port=node_port)
        finally:
            proxy.between = lambda: None
        answers = replies(flow)
        assert set(answers[-2:]) <= {"pod1", "pod2"}, answers
        assert remembered(9) == before, "flows to elsewhere stay"


@INDEX
def test_a_udp_flow_from_while_the_address_was_away_is_not_lost_for_ever(proxy: Draining, index: int) -> None:
    number = 38 + index
    proxy.service(f"back-{number}", number, "pod1")
    vip = vips(number)[index]
    sh("ip", "link", "del", DUMMY_LINK)
    sh("ip", "route", "add", vip, "via", ("192.0.2.2", "2001:db8::2")[index])
    with client_socket(proxy, index) as flow:
        flow.connect((vip, 80))
        say(flow)
        assert proxy.audit() > 0
        assert replies(flow)[-2:] == ["pod1", "pod1"]


def say(flow: socket.socket) -> None:
    """One datagram, and what comes of it, if anything does."""
    with contextlib.suppress(OSError):
        flow.send(b"probe")
        if select.select([flow], [], [], 0.2)[0]:
            flow.recv(256)


def replies(flow: socket.socket) -> list[str]:
    """Who answers one datagram after the other; those that are refused are left out."""
    answers: list[str] = []
    for _ in range(4):
        with contextlib.suppress(OSError):
            answers.append(ask(flow))
    return answers


@contextlib.contextmanager
def client_socket(proxy: Draining, index: int) -> Iterator[socket.socket]:
    with netns.inside(proxy.net.client):
        made = socket.socket((socket.AF_INET, socket.AF_INET6)[index], socket.SOCK_DGRAM)
    with made:
        yield made


def remembered(port: int) -> int:
    """UDP flows to a port that the node remembers."""
    return sum(
        f" dport={port} " in line.partition("src=")[2].partition("src=")[0]
        for family in ("ipv4", "ipv6")
        for line in sh("conntrack", "-L", "-f", family, "-p", "udp").splitlines()
    )


def test_scaled_to_zero_and_back_no_udp_flow_is_left_on_a_dead_pod(proxy: Draining) -> None:
    proxy.service("dns", 36, "pod1", node_port=30136)
    with in_client(proxy, socket.SOCK_DGRAM) as flow, in_client(proxy, socket.SOCK_DGRAM) as other:
        flow.connect((vips(36)[0], 80))
        other.connect((NODE_ADDRESS[0], 30136))
        assert (ask(flow), ask(other)) == ("pod1", "pod1")
        proxy.apply(*proxy.slices("dns"))
        dead = PODS["pod1"][0]
        for place, port in ((vips(36)[0], "80"), (NODE_ADDRESS[0], "30136")):
            assert f"src={dead} dst=" not in sh("conntrack", "-L", "-p", "udp", "--orig-dst", place, "--dport", port)
        with contextlib.suppress(ConnectionRefusedError):
            assert ask(flow) == ""
        with pytest.raises(ConnectionRefusedError):
            ask(flow)
        proxy.apply(*proxy.slices("dns", "pod2"))
        assert (ask(flow), ask(other)) == ("pod2", "pod2"), "not one packet is lost"


def test_a_udp_flow_moves_when_its_endpoint_goes(proxy: Draining) -> None:
    proxy.service("moving", 37, "pod1", "pod2")
    with in_client(proxy, socket.SOCK_DGRAM) as flow:
        flow.connect((vips(37)[0], 80))
        first = ask(flow)
        (left,) = {"pod1", "pod2"} - {first}
        proxy.apply(*proxy.slices("moving", left))
        assert ask(flow) == left, "not one packet is lost"


def test_settings_of_ipvs(proxy: Draining) -> None:
    for key, value in (("expire_nodest_conn", "1"), ("expire_quiescent_template", "1"), ("conn_reuse_mode", "1")):
        assert sh("sysctl", "-n", f"net.ipv4.vs.{key}").strip() == value
