"""Who changes our tables is noticed, unless it was us."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.drivers.nftables import ChainDriver as NftChainDriver
from kuberouter.drivers.nftables import ElementDriver, Nftables, SetDriver, TableDriver
from kuberouter.engine.inbox import Inbox
from kuberouter.model.core import Family, Row
from kuberouter.model.events import Drifted, Event, Synced
from kuberouter.model.netfilter import Chain, ChainKey, Hook, HookKey, HookRank, Table, make_chain
from kuberouter.model.nftables import (
    TABLE_NAME,
    KeyType,
    NftChain,
    NftChainKey,
    NftElement,
    NftElementKey,
    NftFamily,
    NftSet,
    NftSetKey,
    NftTable,
    NftTableKey,
    NftVerdict,
    make_nft_chain,
)
from kuberouter.sources.netfilter import PAUSE, NetfilterSource
from kuberouter.wire.netlink import start_adopted
from tests.kernel.drive import converge, sh
from tests.support.lab import netns

pytestmark = pytest.mark.root
V4 = NftFamily.IPV4
SET = NftSetKey(V4, "KUBE-SRC-A")
CHAIN = make_nft_chain(NftChainKey(V4, "KUBE-NWPLCY-A"), ("tcp dport 80 accept",))
ELEMENT = NftElement(NftElementKey(SET, bytes((10, 0, 0, 1))))


class Watch:
    """Events of a source until one that ends the wait."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.seen: list[Event] = []

    def until(self, wanted: Callable[[Event], bool]) -> None:
        for _ in range(100):
            found = self._inbox.take(0.1, 0)
            self.seen += found
            if any(wanted(event) for event in found):
                return
        raise AssertionError(f"not seen; only {self.seen}")

    def drifted(self, row: type[Row]) -> None:
        """Wait for the drift of a table."""
        self.until(lambda event: event == Drifted(row))

    def tables(self) -> set[type[Row]]:
        return {event.table for event in self.seen if isinstance(event, Drifted)}


@pytest.fixture
def watch(namespace: str) -> Iterator[Watch]:
    inbox, stop = Inbox(), threading.Event()
    source = NetfilterSource(("KUBE-ROUTER-",))

    def run() -> None:
        with netns.inside(namespace):
            source.run(inbox, stop)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        made = Watch(inbox)
        made.until(lambda event: event == Synced("netfilter"))
        yield made
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def marker(watch: Watch) -> None:
    """A change by somebody else, behind which nothing of what came before can still be under way."""
    sh("nft", "add", "table", "ip", "kube-router-filter-ipv4")
    sh("nft", "add", "chain", "ip", "kube-router-filter-ipv4", "MARKER")
    watch.drifted(NftChain)


@pytest.mark.parametrize("library", [True, False])
def test_what_we_do_ourselves_is_no_news(watch: Watch, library: bool) -> None:
    nftables = Nftables(library=library)
    drivers: list[tuple[Any, Row]] = [
        (TableDriver(nftables), NftTable(NftTableKey(V4))),
        (SetDriver(nftables), NftSet(SET, (KeyType.IPV4_ADDR,))),
        (ElementDriver(nftables), ELEMENT),
        (NftChainDriver(nftables), CHAIN),
    ]
    for driver, row in drivers:
        assert converge(driver, [row]) == {}
    xtables = Xtables(Variant.NFT)
    chain = make_chain(ChainKey(Family.IPV4, Table.FILTER, "KUBE-ROUTER-X"), ("-j RETURN",))
    hook = Hook(HookKey(Family.IPV4, Table.FILTER, "FORWARD", "-j KUBE-ROUTER-X"), HookRank.POLICY)
    assert converge(ChainDriver(xtables, (Family.IPV4,), ("KUBE-ROUTER-",)), [chain]) == {}
    assert converge(HookDriver(xtables, (Family.IPV4,)), [hook]) == {}
    for driver, _ in reversed(drivers[1:]):
        assert converge(driver, []) == {}
    marker(watch)
    assert watch.tables() <= {NftTable, NftChain}


def test_a_tool_is_ours_from_its_first_moment(watch: Watch) -> None:
    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["iptables-nft", "-N", "KUBE-ROUTER-X"])
        assert child.wait(10) == 0
        time.sleep(3 * PAUSE)
        return child

    start_adopted(start)
    marker(watch)
    assert watch.tables() == {NftTable, NftChain}


def test_whoever_changes_our_nftables_is_noticed(watch: Watch) -> None:
    nftables, table = Nftables(), TABLE_NAME[V4]
    assert converge(TableDriver(nftables), [NftTable(NftTableKey(V4))]) == {}
    assert converge(SetDriver(nftables), [NftSet(SET, (KeyType.IPV4_ADDR,))]) == {}
    assert converge(NftChainDriver(nftables), [CHAIN]) == {}
    assert converge(ElementDriver(nftables), [ELEMENT]) == {}
    for words, row in (
        (("flush", "chain", "ip", table, CHAIN.key.name), NftChain),
        (("add", "rule", "ip", table, CHAIN.key.name, "accept"), NftChain),
        (("flush", "set", "ip", table, SET.name), NftElement),
        (("add", "element", "ip", table, SET.name, "{ 10.9.9.9 }"), NftVerdict),
        (("delete", "set", "ip", table, SET.name), NftSet),
        (("add", "table", "ip", table, "{ flags dormant; }"), NftTable),
        (("flush", "ruleset"), NftTable),
    ):
        sh("nft", *words)
        watch.drifted(row)
    assert watch.tables() <= {NftTable, NftSet, NftElement, NftChain, NftVerdict}


def test_whoever_changes_our_chains_in_iptables_is_noticed_and_others_business_is_not(watch: Watch) -> None:
    for words in (("-N", "OTHERS"), ("-A", "OTHERS", "-j", "DROP"), ("-N", "KUBE-ROUTER-X")):
        sh("iptables-nft", *words)
    sh("iptables-nft", "-A", "KUBE-ROUTER-X", "-j", "RETURN")
    watch.drifted(Chain)
    assert watch.tables() == {Chain}
    sh("iptables-nft", "-I", "FORWARD", "-j", "OTHERS")
    watch.drifted(Hook)
    assert watch.tables() == {Chain, Hook}
    sh("nft", "add", "table", "inet", "others")
    subprocess.run(["iptables-nft", "-F", "KUBE-ROUTER-X"], check=True)
    watch.drifted(Chain)
    assert watch.tables() == {Chain, Hook}
