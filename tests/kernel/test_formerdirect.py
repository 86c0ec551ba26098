"""What the Go kube-router leaves of direct server return: known by every detail, removed, and nothing beside it."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from kuberouter.cluster.allocations import MARK_MASK, candidates
from kuberouter.drivers.formerdirect import FormerDirectDriver
from kuberouter.drivers.iptables import Variant, Xtables
from kuberouter.engine.inbox import Inbox
from kuberouter.model.cluster import KnownMark, MarkedPlace, MarkUse
from kuberouter.model.core import Family, L4Protocol
from kuberouter.model.events import Drifted, Synced, Upserted
from kuberouter.model.netfilter import FormerDirectKey
from kuberouter.model.receivers import PodReceiver
from kuberouter.sources.marks import MarkSource
from tests.kernel.drive import converge, owned, sh
from tests.support.lab import netns

CLAMP = "-p tcp -m tcp --sport 80 --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440"
THEIRS = [
    "PREROUTING -d 10.255.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x235e/0xffffffff",
    "OUTPUT -d 10.255.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x235e/0xffffffff",
    f"PREROUTING -s 10.255.0.1/32 -i kube-bridge {CLAMP}",
    "POSTROUTING -s 10.255.0.1/32 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440",
]
OTHERS = [
    "PREROUTING -d 10.255.0.1/32 -p tcp -m tcp --dport 81 -j MARK --set-xmark 0x235e/0xffffffff",
    "PREROUTING -d 10.255.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffffffff",
    "FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "POSTROUTING -s 10.9.9.9/32 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200",
]
RULES = ["fwmark 0x235e lookup 78 pref 32764", "lookup 79 pref 32765"]
OTHER_RULES = ["fwmark 0x5 lookup 78 pref 100", "from 10.0.0.0/8 lookup 79 pref 200"]


def is_theirs(address: bytes, protocol: L4Protocol, port: int, mark: int) -> bool:
    return mark in islice(candidates(MarkedPlace(address, protocol, port)), 8)


@pytest.fixture
def tools(namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    return [lambda: Xtables(Variant.NFT), lambda: Xtables(Variant.LEGACY)]


def mangled(variant: Variant) -> list[str]:
    saved = sh(f"iptables-{variant.value}-save", "-t", "mangle").splitlines()
    return [line.removeprefix("-A ") for line in saved if line.startswith("-A")]


@pytest.mark.parametrize("variant", list(Variant), ids=lambda v: v.value)
def test_theirs_goes_and_what_looks_like_it_stays(tools: list[Any], variant: Variant) -> None:
    for rule in (*THEIRS, *OTHERS):
        sh(f"iptables-{variant.value}", "-t", "mangle", "-A", *rule.split())
    for rule in (*RULES, *OTHER_RULES):
        sh("ip", "rule", "add", *rule.split())
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "route", "add", "local", "default", "dev", "lo", "table", "78")
    sh("ip", "route", "add", "unreachable", "192.0.2.0/24", "table", "79")
    for bridge, address in (("kube-bridge", "198.51.100.7"), ("others", "198.51.100.8")):
        sh("ip", "link", "add", bridge, "up", "type", "bridge")
        sh("ip", "route", "add", address, "dev", bridge, "table", "79")
    driver = FormerDirectDriver(tools, tuple(Family), is_theirs)
    assert set(owned(driver)) == {FormerDirectKey(Family.IPV4)}
    assert converge(driver, []) == {}
    assert owned(driver) == {}
    assert mangled(variant) == OTHERS
    rules = sh("ip", "rule")
    assert "32764" not in rules
    assert "32765" not in rules
    assert "100:" in rules
    assert "200:" in rules
    assert sh("ip", "route", "show", "table", "78") == ""
    kept = [line.split()[:4] for line in sh("ip", "route", "show", "table", "79").splitlines()]
    assert kept == [["unreachable", "192.0.2.0/24"], ["198.51.100.8", "dev", "others", "scope"]]


def test_b20_a_node_that_never_had_it_is_read_and_left_alone(tools: list[Any]) -> None:
    driver = FormerDirectDriver(tools, tuple(Family), is_theirs)
    assert owned(driver) == {}
    tables = Path("/proc/thread-self/net/ip_tables_names")
    assert not tables.exists() or "mangle" not in tables.read_text(), "looking must not make the table"


@pytest.mark.ipvs
def test_their_services_go_unless_they_are_wanted(tools: list[Any]) -> None:
    if not netns.have("ip_vs"):
        pytest.skip("this kernel has no module ip_vs; the vm lane runs this")
    from kuberouter.drivers.ipvs import VirtualServiceDriver
    from kuberouter.drivers.ownership import Ownership
    from kuberouter.model.ipvs import VirtualService, marked_service

    udp = MarkedPlace(bytes((10, 255, 0, 1)), L4Protocol.UDP, 53)
    mark = next(candidates(udp))
    more = f"PREROUTING -d 10.255.0.1/32 -p udp -m udp --dport 53 -j MARK --set-xmark {mark:#x}/0xffffffff"
    for rule in (*THEIRS, more):
        sh("iptables-nft", "-t", "mangle", "-A", *rule.split())
    for number in (9054, mark, 5):
        sh("ipvsadm", "-A", "-f", str(number), "-s", "rr")
    row = VirtualService(marked_service(Family.IPV4, mark))
    assert converge(VirtualServiceDriver(Ownership(lambda key: key == row.key)), [row]) == {}
    assert converge(FormerDirectDriver(tools, tuple(Family), is_theirs), []) == {}
    assert sorted(line.split()[2] for line in sh("ipvsadm", "-Sn").splitlines()) == sorted(("5", str(mark)))


def told(chains: dict[str, MarkUse]) -> tuple[list[Any], bool]:
    """What a source of marks tells."""
    inbox, stop = Inbox(), threading.Event()
    stop.set()
    source = MarkSource(chains, MARK_MASK, revisit=(PodReceiver,))
    source.run(inbox, stop)
    return inbox.take(0.0, 0.0), source.found


def test_b08_marks_are_recovered_from_our_chains_and_theirs(tools: list[Any]) -> None:
    assert told({}) == ([Synced("marks")], False)
    for chain in ("KUBE-ROUTER-DSR", "SOMEBODY"):
        sh("ip6tables-nft", "-t", "mangle", "-N", chain)
        words = f"-d 2001:db8::1/128 -p tcp -m tcp --dport 443 -j MARK --set-xmark {0x23A9 + len(chain):#x}/0xffffffff"
        sh("ip6tables-nft", "-t", "mangle", "-A", chain, *words.split())
    sh("iptables-legacy", "-t", "mangle", "-A", *THEIRS[0].split())
    sh("iptables-legacy", "-t", "mangle", "-A", *OTHERS[1].replace("--dport 80", "--dport 82").split())
    events, found = told({"KUBE-ROUTER-DSR": MarkUse.DSR})
    assert found
    marks = {e.obj.place: e.obj.mark for e in events if isinstance(e, Upserted) and isinstance(e.obj, KnownMark)}
    assert marks == {
        MarkedPlace(bytes((10, 255, 0, 1)), L4Protocol.TCP, 80): 9054,
        MarkedPlace(bytes((10, 255, 0, 1)), L4Protocol.TCP, 82): 1,
        MarkedPlace(b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01", L4Protocol.TCP, 443): 0x23A9 + 15,
    }
    assert events[-2:] == [Synced("marks"), Drifted(PodReceiver)]
