"""Packets that real rules log are read, by one reader at a time, and a flood of them costs what it may."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address

import pytest

from kuberouter.model.drops import LoggedPacket
from kuberouter.sources.drops import MOST, PAUSE, DropSource
from kuberouter.wire.nflog import BATCH
from tests.kernel.drive import sh
from tests.kernel.test_hostnet import Heard
from tests.support import nflog

pytestmark = pytest.mark.root
INGRESS, EGRESS = "KUBE-POD-FW-MWWCF5EF5XIQLQL4 ingress", "KUBE-POD-FW-MWWCF5EF5XIQLQL4 egress"
PORT, END = 5353, 9999
FLOOD = 20_000
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
KIND = {4: socket.AF_INET, 6: socket.AF_INET6}


def iptables(variant: str) -> Callable[[int], None]:
    def put(version: int) -> None:
        tool = ("iptables" if version == 4 else "ip6tables") + variant
        for chain, prefix in (("OUTPUT", EGRESS), ("INPUT", INGRESS)):
            sh(tool, "-A", chain, "-p", "udp", "-j", "NFLOG", "--nflog-prefix", prefix, "--nflog-group", "100")

    return put


def nftables(version: int) -> None:
    assert version
    chains = "".join(
        f'chain {hook} {{ type filter hook {hook} priority 0; meta l4proto udp log prefix "{prefix}" group 100; }}\n'
        for hook, prefix in (("output", EGRESS), ("input", INGRESS))
    )
    sh("nft", "-f", "-", stdin=f"table inet test {{\n{chains}}}")


RULES = {"iptables-nft": iptables("-nft"), "iptables-legacy": iptables("-legacy"), "nftables": nftables}


class Told:
    """Whoever is told of packets."""

    def __init__(self) -> None:
        self.packets: list[LoggedPacket] = []
        self.times: list[tuple[float, int]] = []
        self.lost = 0
        self._more = threading.Condition()

    def tell(self, packets: Sequence[LoggedPacket], lost: int) -> None:
        with self._more:
            self.packets += packets
            self.lost += lost
            self.times += [(time.monotonic(), len(packets))] if packets else []
            self._more.notify_all()

    def wait(self, wanted: Callable[[], bool], bound: float = 20.0) -> None:
        with self._more:
            assert self._more.wait_for(wanted, bound), (len(self.packets), self.lost)


@contextlib.contextmanager
def reading(*, retry: float = 0.05, wait: bool = True) -> Iterator[tuple[DropSource, Told]]:
    """A source in this thread's namespace."""
    told, stop = Told(), threading.Event()
    source = DropSource(100, told.tell, retry=retry)
    thread = threading.Thread(target=source.run, args=(Heard(), stop))
    thread.start()
    try:
        if wait:
            told.wait(lambda: source.reading)
        yield source, told
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def send(version: int, *ports: int) -> None:
    with socket.socket(KIND[version], socket.SOCK_DGRAM) as client:
        for port in ports:
            client.sendto(b"hello", (LOOPBACK[version], port))


@pytest.fixture
def loopback(namespace: str) -> str:
    sh("ip", "link", "set", "lo", "up")
    return namespace


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("rules", list(RULES))
def test_a_logged_packet_is_read(loopback: str, rules: str, version: int) -> None:
    if rules != "nftables" and shutil.which(rules) is None:
        pytest.skip(f"{rules} is not installed")
    assert loopback
    RULES[rules](version)
    address = ip_address(LOOPBACK[version]).packed
    with reading() as (_, told):
        send(version, PORT)
        told.wait(lambda: len(told.packets) == 2)
    # What the node itself sends came in by no link.
    assert told.packets == [
        LoggedPacket(EGRESS, "", address, address, socket.IPPROTO_UDP, PORT),
        LoggedPacket(INGRESS, "lo", address, address, socket.IPPROTO_UDP, PORT),
    ]
    assert told.lost == 0


def test_who_has_the_group_keeps_it_and_it_is_taken_when_it_is_free(
    loopback: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    nftables(4)
    with contextlib.ExitStack() as other:
        log = other.enter_context(nflog.listening(loopback))
        with reading(wait=False) as (source, told):
            for _ in range(2):
                send(4, PORT)
                assert log.find(lambda record: record.prefix == EGRESS) is not None
            assert not source.reading
            assert told.packets == []
            (warning,) = caplog.messages
            assert warning == (
                "NFLOG group 100: another program reads it, such as ulogd or tcpdump; "
                "refused packets are not told of here meanwhile"
            )
            other.close()
            told.wait(lambda: source.reading)
            send(4, PORT)
            told.wait(lambda: bool(told.packets))
    assert caplog.messages[1:] == ["NFLOG group 100: it can be read again"]


def test_a_flood_is_read_in_part_and_every_packet_that_is_not_is_counted(loopback: str) -> None:
    assert loopback
    nftables(4)
    sent = [PORT] * FLOOD
    with reading() as (source, told):
        send(4, *sent)
        # A loss shows by the number of the next packet that finds room. Each packet is logged twice.
        for _ in range(60):
            send(4, END)
            sent.append(END)
            with contextlib.suppress(AssertionError):
                told.wait(lambda: len(told.packets) + told.lost == 2 * len(sent), 1.0)
                break
        assert source.reading
    assert len(told.packets) + told.lost == 2 * len(sent)
    assert told.packets[-1].port == END
    assert told.lost > FLOOD
    assert all(size < MOST + 2 * BATCH for _, size in told.times)
    assert all(after - at >= PAUSE for (at, _), (after, _) in itertools.pairwise(told.times))
