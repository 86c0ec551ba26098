"""Marks that a daemon before this one has handed out, found again in the kernel."""

from __future__ import annotations

import threading
from ipaddress import ip_address

import pytest

from kuberouter.cluster.allocations import ANYWHERE
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.model.cluster import KnownMark, MarkedPlace, MarkUse
from kuberouter.model.core import Family, L4Protocol
from kuberouter.model.events import Event, Synced, Upserted
from kuberouter.model.netfilter import IpSet, IpSetKey, Member, MemberKey, SetType
from kuberouter.sources.marks import MarkSource
from tests.kernel.drive import converge, sh

pytestmark = pytest.mark.root

PLACES, PORTS = "kube-router-svip-inside", "kube-router-svip-nodeport"


class Heard:
    """An inbox that keeps what it is given, and a stop that is set as soon as everything is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stop = threading.Event()

    def put(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Synced):
            self.stop.set()


def marks_of(source: MarkSource) -> dict[MarkedPlace | None, int]:
    heard = Heard()
    source.run(heard, heard.stop)
    assert heard.events[-1] == Synced("marks")
    found = [e.obj for e in heard.events if isinstance(e, Upserted)]
    assert all(isinstance(known, KnownMark) for known in found)
    return {known.place: known.mark for known in found if isinstance(known, KnownMark)}


def test_whoever_can_no_longer_enter_pods_says_what_is_left_in_them(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert namespace
    words = "-d 203.0.113.7/32 -p tcp -m tcp --dport 80 -j MARK --set-mark 0x7"
    sh("iptables", "-t", "mangle", "-A", "PREROUTING", *words.split())
    for warning, told in (("", []), ("left in pods", ["left in pods"])):
        source = MarkSource({}, 0x3FFF, warning=warning)
        place = MarkedPlace(ip_address("203.0.113.7").packed, L4Protocol.TCP, 80, MarkUse.DSR)
        assert marks_of(source) == {place: 7}
        assert source.found
        assert caplog.messages == told


def test_marks_for_clients_inside_are_found_in_their_sets(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    del namespace

    def ours(name: str) -> bool:
        return name.removeprefix("inet6:").startswith("kube-router-svip")

    names = [prefix + name for prefix in ("", "inet6:") for name in (PLACES, PORTS)]
    families = [Family.IPV6 if name.startswith("inet6:") else Family.IPV4 for name in names]
    sets = [IpSet(IpSetKey(n), SetType.HASH_IP_PORT, f, marks=True) for n, f in zip(names, families, strict=True)]
    assert converge(SetDriver(ours), sets) == {}
    four, six = ip_address("203.0.113.7").packed, ip_address("2001:db8:2::7").packed
    members = [
        Member(MemberKey(PLACES, four, 32, L4Protocol.TCP, 80), 7),
        Member(MemberKey(f"inet6:{PLACES}", six, 128, L4Protocol.UDP, 53), 0x3FFF),
        Member(MemberKey(PORTS, four, 32, L4Protocol.TCP, 30080), 9),
        Member(MemberKey(f"inet6:{PORTS}", six, 128, L4Protocol.TCP, 30080), 9),
        Member(MemberKey(PLACES, four, 32, L4Protocol.TCP, 81), 0x4000),
    ]
    assert converge(MemberDriver(ours), members) == {}
    source = MarkSource({}, 0x3FFF, sets={PLACES: None, PORTS: ANYWHERE}, warning="left in pods")
    assert marks_of(source) == {
        MarkedPlace(four, L4Protocol.TCP, 80, MarkUse.INSIDE): 7,
        MarkedPlace(six, L4Protocol.UDP, 53, MarkUse.INSIDE): 0x3FFF,
        MarkedPlace(ANYWHERE, L4Protocol.TCP, 30080, MarkUse.INSIDE): 9,
    }
    assert not source.found, "nothing of direct return"
    assert caplog.messages == []
    assert marks_of(MarkSource({}, 0x3FFF)) == {}
