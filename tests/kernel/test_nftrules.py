"""What we make of a rule's text is what nft makes of it: both are loaded, and the kernel gives the same bytes back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import ip_network

import pytest

from kuberouter.drivers.nftables import ChainDriver, Nftables, SetDriver, TableDriver
from kuberouter.model.core import Batch, Prefix
from kuberouter.model.nftables import (
    TABLE_NAME,
    NftChain,
    NftChainKey,
    NftFamily,
    NftSet,
    NftTable,
    NftTableKey,
    make_nft_chain,
)
from kuberouter.model.settings import FirewallSettings
from kuberouter.wire import nftables as wire
from kuberouter.wire.netlink import attributes, text
from tests.kernel.drive import sh
from tests.property.test_policies import STRICT, drawn, link, pod, space, take, world

pytestmark = pytest.mark.root

RANGES = (
    "10.96.0.0/12",
    "192.0.2.0/24",
    "198.51.100.7/32",
    "0.0.0.0/1",
    "fd00:96::/108",
    "2001:db8::/32",
    "fd00::1/128",
)
BLOCKS = tuple(Prefix(block.network_address.packed, block.prefixlen) for block in map(ip_network, RANGES))
OPEN = FirewallSettings(cluster_ranges=BLOCKS[:4], external_ranges=BLOCKS[4:])

Kept = dict[tuple[NftFamily, str], list[tuple[bytes, bytes]]]


def kept() -> Kept:
    """By chain the expressions and the comment of each rule, as the kernel has them."""
    found: Kept = {}
    socket = wire.NftSocket()
    for family in NftFamily:
        for body in socket.list(wire.GETRULE, bytes((family, 0, 0, 0))):
            rule = attributes(body, wire.GENMSG.size)
            chain = found.setdefault((family, text(rule[wire.RULE_CHAIN])), [])
            chain.append((rule[wire.RULE_EXPRESSIONS], rule.get(wire.RULE_USERDATA, b"")))
    return found


@pytest.mark.parametrize("settings", [OPEN, STRICT], ids=["open", "strict"])
def test_rules_are_kept_as_those_of_nft(namespace: str, settings: FirewallSettings) -> None:
    assert namespace
    made = world(settings, "nftables")
    for seed in range(30):
        for obj in (*drawn(seed), link(1, "a", bool(seed % 2))):
            take(made, obj)
    for number, name in enumerate("xyz"):
        made.feed(json.dumps(space(name, number)).encode())
        made.feed(json.dumps(pod(name, "a", 1, number, "Running", "node-1")).encode())
    made.sync()
    by_tool, by_us = Nftables(direct=False), Nftables()
    load(TableDriver(by_us), made.table(NftTable).values())
    load(SetDriver(by_us), made.table(NftSet).values())
    chains: Iterable[NftChain] = made.table(NftChain).values()
    assert len({rule for chain in chains for rule in chain.rules}) > 60
    load(ChainDriver(by_tool), chains)
    meant = kept()
    for chain in chains:
        sh("nft", "flush", "chain", LAYER[chain.key.family], TABLE_NAME[chain.key.family], chain.key.name)
    load(ChainDriver(by_us), chains)
    assert kept() == meant
    # Sets too are printed as if the tool had made them, so what it prints makes them again.
    listed = sh("nft", "list", "ruleset")
    sh("nft", "flush", "ruleset")
    sh("nft", "-f", "-", stdin=listed)
    assert sh("nft", "list", "ruleset") == listed


LAYER = {NftFamily.IPV4: "ip", NftFamily.BRIDGE: "bridge", NftFamily.IPV6: "ip6"}


def load(driver: TableDriver | SetDriver | ChainDriver, rows: Iterable[object]) -> None:
    assert driver.write(Batch(tuple(rows))).failed == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("direct", [True, False], ids=["netlink", "tool"])
def test_a_rule_without_words_of_ours_is_left_to_the_tool(namespace: str, direct: bool) -> None:
    assert namespace
    nftables = Nftables(direct=direct)
    load(TableDriver(nftables), [NftTable(NftTableKey(NftFamily.IPV4))])
    rows = [
        make_nft_chain(NftChainKey(NftFamily.IPV4, "KUBE-NWPLCY-A"), ("tcp dport 80 accept",)),
        make_nft_chain(NftChainKey(NftFamily.IPV4, "KUBE-NWPLCY-B"), ("tcp flags syn tcp dport { 80, 443 } accept",)),
    ]
    load(ChainDriver(nftables), rows)
    assert {row.key: row for row in ChainDriver(nftables).read()} == {row.key: row for row in rows}
