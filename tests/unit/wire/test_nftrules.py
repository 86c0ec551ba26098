"""Rule texts as expressions of nf_tables. That these are the right ones, the kernel lane shows."""

from __future__ import annotations

import pytest

from kuberouter.model.nftables import NftFamily
from kuberouter.wire.netlink import attributes, each_attribute, text
from kuberouter.wire.nftrules import Unspoken, expressions


def names(rule: str, family: NftFamily = NftFamily.IPV4) -> list[str]:
    return [text(attributes(body)[1]) for _, body in each_attribute(expressions(family, rule))]


def test_a_rule_is_a_list_of_expressions() -> None:
    assert names("tcp dport 80 ip saddr @S accept") == [
        "meta",
        "cmp",
        "payload",
        "cmp",
        "payload",
        "lookup",
        "immediate",
    ]
    assert names("tcp dport 80-90 accept") == ["meta", "cmp", "payload", "cmp", "cmp", "immediate"]
    answer = "iifname . ip saddr . meta l4proto . th sport @S tcp flags & (fin | syn | rst | ack) != syn return"
    looked = ["meta", "payload", "meta", "payload", "lookup"]
    assert names(answer) == [*looked, "meta", "cmp", "payload", "bitwise", "cmp", "immediate"]
    assert names("meta l4proto != tcp drop") == ["meta", "cmp", "immediate"]
    assert names("accept") == ["immediate"]
    assert names("") == []


def test_a_bridge_asks_for_the_protocol_before_it_looks_for_an_address() -> None:
    bridge = NftFamily.BRIDGE
    looked = ["meta", "cmp", "meta", "payload", "lookup", "immediate"]
    assert names("iifname . ip saddr @S accept", bridge) == looked
    assert names("iifname @L ip6 saddr @S drop", bridge) == [*looked[2:3], "lookup", *looked[:2], *looked[3:]]
    assert names("meta protocol ip iifname @L", bridge) == ["meta", "cmp", "meta", "lookup"]


@pytest.mark.parametrize(
    "rule",
    [
        "tcp dport 70000 accept",
        "tcp dport 90-80 accept",
        "tcp dport { 80, 90 } accept",
        "tcp dport 80 accepted",
        "tcp flags syn accept",
        "tcp flags & (fin | syn | rst | ack) != ack accept",
        "ct state untracked accept",
        "ip saddr 10.0.0.1/8 accept",
        "ip saddr fd00::/8 accept",
        "ip saddr 0.0.0.0/0 accept",
        "icmp type 256 accept",
        'iifname "veth*" accept',
        "meta l4proto gre accept",
        "reject with icmp type host-unreachable",
        "  accept",
    ],
)
def test_what_goes_beyond_is_said(rule: str) -> None:
    with pytest.raises(Unspoken):
        expressions(NftFamily.IPV4, rule)
