"""Our nftables tables on the real kernel, read back by us and by nft(8), beside tables of others."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from kuberouter.drivers.nftables import (
    ChainDriver,
    ElementDriver,
    FormerTableDriver,
    Nftables,
    SetDriver,
    TableDriver,
    VerdictDriver,
)
from kuberouter.model.core import Batch, Family
from kuberouter.model.nftables import (
    TABLE_NAME,
    BaseHook,
    NftChain,
    NftChainKey,
    NftElement,
    NftElementKey,
    NftSet,
    NftSetKey,
    NftTable,
    NftTableKey,
    NftVerdict,
    NftVerdictKey,
    SetContent,
    make_nft_chain,
)
from tests.kernel.drive import converge, owned, sh

pytestmark = pytest.mark.root

V4 = Family.IPV4
TABLES = [NftTable(NftTableKey(family)) for family in Family]
NAMES = {
    (family, content): f"{content.value}-{family.name}"
    for family in Family
    for content in SetContent
    if content is not SetContent.STRANGE
}
SETS = [NftSet(NftSetKey(family, name), content) for (family, content), name in NAMES.items()]
FORWARD = BaseHook("forward", -2)


@pytest.fixture(params=[True, False], ids=["library", "process"])
def nftables(request: pytest.FixtureRequest, namespace: str) -> Nftables:
    assert namespace
    made = Nftables(library=request.param)
    assert converge(TableDriver(made), TABLES) == {}
    return made


def key(name: str, family: Family = V4) -> NftChainKey:
    return NftChainKey(family, name)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def element(family: Family, content: SetContent, number: int) -> NftElement:
    """The number-th possible element of a set; ranges of different numbers do not overlap."""
    width = 4 if family is V4 else 16
    raw = number << 8 * (width - 1)
    address = raw.to_bytes(width, "big")
    name = NAMES[family, content]
    match content:
        case SetContent.BLOCKS:
            length = (1 << 8 * (width - 1)) if number % 3 else 5
            return NftElement(NftElementKey(name, address, (raw + length - 1).to_bytes(width, "big")))
        case SetContent.PORTS:
            return NftElement(NftElementKey(name, address, b"", (6, 17, 132)[number % 3], number * 256 + 1))
        case _:
            return NftElement(NftElementKey(name, address))


def test_any_elements_become_any_others(nftables: Nftables) -> None:
    sets, elements = SetDriver(nftables), ElementDriver(nftables)
    dice = random.Random(7)
    plain = [(f, c) for f, c in NAMES if c is not SetContent.VERDICTS]
    for _ in range(8):
        assert converge(sets, SETS) == {}
        assert owned(sets) == {row.key: row for row in SETS}
        state = {
            row.key: row
            for family, content in plain
            for number in (*dice.sample(range(256), dice.randrange(40)), 0, 255)
            for row in (element(family, content, number),)
        }
        assert converge(elements, state.values()) == {}
        assert owned(elements) == state
        if dice.random() < 0.3:
            assert converge(sets, []) == {}
            assert owned(sets) == {}


def test_the_whole_address_space_is_one_range(nftables: Nftables) -> None:
    assert converge(SetDriver(nftables), SETS) == {}
    rows = [
        NftElement(NftElementKey(NAMES[family, SetContent.BLOCKS], b"\0" * n, b"\xff" * n))
        for family, n in ((Family.IPV4, 4), (Family.IPV6, 16))
    ]
    assert converge(ElementDriver(nftables), rows) == {}
    assert owned(ElementDriver(nftables)) == {row.key: row for row in rows}
    name = NAMES[V4, SetContent.BLOCKS]
    assert "0.0.0.0/0" in sh("nft", "list", "set", "ip", TABLE_NAME[V4], name)
    assert sh("nft", "get", "element", "ip", TABLE_NAME[V4], name, "{ 203.0.113.9 }")


def test_nft_reads_what_we_wrote(nftables: Nftables) -> None:
    assert converge(SetDriver(nftables), SETS) == {}
    rows = [
        NftElement(NftElementKey("addresses-IPV4", packed("10.1.2.3"))),
        NftElement(NftElementKey("addresses-IPV6", packed("fd00::3"))),
        NftElement(NftElementKey("blocks-IPV4", packed("10.0.0.0"), packed("10.1.255.255"))),
        NftElement(NftElementKey("blocks-IPV4", packed("10.2.0.0"), packed("10.2.0.255"))),
        NftElement(NftElementKey("ports-IPV4", packed("10.1.2.3"), b"", 132, 80)),
        NftElement(NftElementKey("ports-IPV6", packed("fd00::3"), b"", 17, 53)),
    ]
    assert converge(ElementDriver(nftables), rows) == {}
    chain = make_nft_chain(key("KUBE-POD-FW-A"), ("counter drop",))
    assert converge(ChainDriver(nftables), [chain]) == {}
    verdicts = [
        NftVerdict(NftVerdictKey("verdicts-IPV4", packed("10.1.2.3")), "KUBE-POD-FW-A"),
        NftVerdict(NftVerdictKey("verdicts-IPV4", packed("10.1.2.4"))),
    ]
    assert converge(VerdictDriver(nftables), verdicts) == {}
    assert owned(VerdictDriver(nftables)) == {row.key: row for row in verdicts}
    listed = " ".join(sh("nft", "list", "ruleset").split())
    for text in (
        "elements = { 10.1.2.3 }",
        "elements = { fd00::3 }",
        "elements = { 10.0.0.0/15, 10.2.0.0/24 }",
        "elements = { 10.1.2.3 . sctp . 80 }",
        "elements = { fd00::3 . udp . 53 }",
        "10.1.2.3 : goto KUBE-POD-FW-A",
        "10.1.2.4 : accept",
        'drop comment "kube-router:',
    ):
        assert text in listed


def test_chains_are_read_back_as_they_were_meant(nftables: Nftables) -> None:
    driver = ChainDriver(nftables)
    rows = [
        make_nft_chain(key("KUBE-NWPLCY-A"), ("tcp dport 80-90 accept", "meta l4proto sctp accept")),
        make_nft_chain(key("KUBE-POD-FW-A"), ("jump KUBE-NWPLCY-A", "reject")),
        make_nft_chain(key("KUBE-ROUTER-FORWARD"), ("ct state established accept",), hook=FORWARD),
        make_nft_chain(key("KUBE-ROUTER-FORWARD", Family.IPV6), (), hook=FORWARD),
    ]
    assert converge(driver, rows) == {}
    assert owned(driver) == {row.key: row for row in rows}
    moved = [make_nft_chain(row.key, row.rules, hook=BaseHook("forward", -5)) for row in rows if row.hook]
    assert converge(driver, [*rows[:2], *moved]) == {}
    assert owned(driver) == {row.key: row for row in (*rows[:2], *moved)}
    sh("nft", "add", "chain", "ip", TABLE_NAME[V4], "KUBE-ROUTER-FORWARD", "{ policy drop; }")
    assert owned(driver)[key("KUBE-ROUTER-FORWARD")] != moved[0]
    assert converge(driver, [*rows[:2], *moved]) == {}
    assert owned(driver) == {row.key: row for row in (*rows[:2], *moved)}
    assert converge(driver, []) == {}
    assert owned(driver) == {}


def test_foreign_rules_in_our_chain_are_seen_and_put_right(nftables: Nftables) -> None:
    driver = ChainDriver(nftables)
    row = make_nft_chain(key("KUBE-ROUTER-FORWARD"), ("ct state established accept", "counter"), hook=FORWARD)
    assert converge(driver, [row]) == {}
    sh("nft", "insert", "rule", "ip", TABLE_NAME[V4], "KUBE-ROUTER-FORWARD", "accept")
    assert owned(driver) != {row.key: row}
    assert converge(driver, [row]) == {}
    sh("nft", "flush", "chain", "ip", TABLE_NAME[V4], "KUBE-ROUTER-FORWARD")
    assert owned(driver) != {row.key: row}
    assert converge(driver, [row]) == {}
    assert owned(driver) == {row.key: row}


def test_a_refused_rule_takes_its_chain_to_the_fallback_and_no_other(nftables: Nftables) -> None:
    driver = ChainDriver(nftables)
    bad = make_nft_chain(key("KUBE-NWPLCY-BAD"), ("ip saddr @KUBE-NONE accept",), fallback=())
    worse = make_nft_chain(key("KUBE-NWPLCY-WORSE"), ("tcp dport 70000 accept",), fallback=("drop",))
    profile = make_nft_chain(key("KUBE-POD-FW-P"), ("jump KUBE-NWPLCY-BAD", "reject"))
    good = [make_nft_chain(key(f"KUBE-NWPLCY-{n}"), ("tcp dport 80 accept",)) for n in range(5)]
    failed = converge(driver, [bad, profile, worse, *good])
    assert set(failed) == {bad.key, worse.key}
    assert owned(driver) == {
        bad.key: make_nft_chain(bad.key, ()),
        worse.key: make_nft_chain(worse.key, ("drop",)),
        profile.key: profile,
        **{row.key: row for row in good},
    }


def test_chains_that_lead_in_a_circle_hold_nobody_up(nftables: Nftables) -> None:
    driver = ChainDriver(nftables)
    loop = [
        make_nft_chain(key("KUBE-NWPLCY-L1"), ("jump KUBE-NWPLCY-L2",), fallback=()),
        make_nft_chain(key("KUBE-NWPLCY-L2"), ("jump KUBE-NWPLCY-L1",), fallback=()),
    ]
    top = make_nft_chain(key("KUBE-ROUTER-FORWARD"), ("jump KUBE-NWPLCY-L1",), hook=FORWARD)
    good = make_nft_chain(key("KUBE-NWPLCY-G"), ("tcp dport 80 accept",))
    failed = converge(driver, [top, *loop, good])
    assert failed
    assert good.key not in failed
    assert owned(driver)[good.key] == good


def test_an_element_that_is_refused_holds_nobody_up(nftables: Nftables) -> None:
    assert converge(SetDriver(nftables), SETS) == {}
    driver = ElementDriver(nftables)
    sh("nft", "add", "element", "ip", TABLE_NAME[V4], "blocks-IPV4", "{ 10.0.0.0/8 }")
    inside = NftElement(NftElementKey("blocks-IPV4", packed("10.5.0.0"), packed("10.5.0.255")))
    beside = NftElement(NftElementKey("blocks-IPV4", packed("11.5.0.0"), packed("11.5.0.255")))
    homeless = NftElement(NftElementKey("no-such-set", packed("10.0.0.1")))
    outcome = driver.write(Batch(add=(inside, beside, homeless)))
    assert set(outcome.failed) == {inside.key, homeless.key}
    assert "overlaps" in outcome.failed[inside.key]
    assert beside.key in owned(driver)
    assert converge(driver, [inside, beside]) == {}
    assert set(owned(driver)) == {inside.key, beside.key}
    sh("nft", "delete", "element", "ip", TABLE_NAME[V4], "blocks-IPV4", "{ 10.5.0.0/24 }")
    assert not driver.write(Batch(remove=(inside, beside))).failed
    assert owned(driver) == {}


def test_a_verdict_whose_chain_is_missing_leaves_the_one_before_it(nftables: Nftables) -> None:
    assert converge(SetDriver(nftables), SETS) == {}
    assert converge(ChainDriver(nftables), [make_nft_chain(key("KUBE-POD-FW-A"), ("drop",))]) == {}
    driver = VerdictDriver(nftables)
    old = [NftVerdict(NftVerdictKey("verdicts-IPV4", packed(f"10.0.0.{n}")), "KUBE-POD-FW-A") for n in range(3)]
    assert converge(driver, old) == {}
    new = [NftVerdict(old[0].key, "KUBE-NONE"), NftVerdict(old[1].key, ""), old[2]]
    assert set(converge(driver, new)) == {old[0].key}
    assert owned(driver) == {row.key: row for row in (old[0], new[1], old[2])}
    # What somebody else deleted meanwhile is put in all the same.
    sh("nft", "flush", "map", "ip", TABLE_NAME[V4], "verdicts-IPV4")
    assert not driver.write(Batch(change=((old[2], NftVerdict(old[2].key)),), remove=(old[0],))).failed
    assert owned(driver) == {old[2].key: NftVerdict(old[2].key)}


def test_a_chain_in_use_cannot_be_removed_and_holds_nobody_up(nftables: Nftables) -> None:
    assert converge(SetDriver(nftables), SETS) == {}
    driver = ChainDriver(nftables)
    rows = [make_nft_chain(key(f"KUBE-POD-FW-{n}"), ("drop",)) for n in range(3)]
    assert converge(driver, rows) == {}
    used = NftVerdict(NftVerdictKey("verdicts-IPV4", packed("10.0.0.1")), "KUBE-POD-FW-1")
    assert converge(VerdictDriver(nftables), [used]) == {}
    assert set(converge(driver, [])) == {rows[1].key}
    # It was not emptied either: its packets are still judged.
    assert owned(driver) == {rows[1].key: rows[1]}


def test_a_set_of_another_form_is_replaced(nftables: Nftables) -> None:
    driver = SetDriver(nftables)
    sh("nft", "add", "set", "ip", TABLE_NAME[V4], "addresses-IPV4", "{ type ipv4_addr; flags timeout; }")
    assert owned(driver)[NftSetKey(V4, "addresses-IPV4")].content is SetContent.STRANGE
    assert converge(driver, SETS) == {}
    assert owned(driver) == {row.key: row for row in SETS}


def test_tables_of_others_stay_and_ours_go_at_once(nftables: Nftables) -> None:
    sh(
        "nft",
        "-f",
        "-",
        stdin="table ip others { set s { type ipv4_addr; elements = { 10.9.9.9 }; }; chain c { drop; }; }",
    )
    before = sh("nft", "list", "table", "ip", "others")
    assert converge(SetDriver(nftables), SETS) == {}
    rows: list[NftChain] = [make_nft_chain(key("KUBE-ROUTER-FORWARD"), ("drop",), hook=FORWARD)]
    assert converge(ChainDriver(nftables), rows) == {}
    sh("nft", "add", "table", "ip", TABLE_NAME[V4], "{ flags dormant; }")
    driver = TableDriver(nftables)
    assert owned(driver)[NftTableKey(V4)].dormant
    assert converge(driver, TABLES) == {}
    assert owned(driver) == {row.key: row for row in TABLES}
    former = FormerTableDriver(nftables)
    assert set(owned(former)) == {row.key for row in TABLES}
    assert converge(former, []) == {}
    assert owned(former) == {}
    assert sh("nft", "list", "ruleset") == before
