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
from kuberouter.model.core import Batch
from kuberouter.model.nftables import (
    TABLE_NAME,
    BaseHook,
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
    NftVerdictKey,
    SetForm,
    make_nft_chain,
    packed_link,
    packed_port,
)
from tests.kernel.drive import converge, owned, sh

pytestmark = pytest.mark.root

V4 = NftFamily.IPV4
TABLES = [NftTable(NftTableKey(family)) for family in NftFamily]
IP, IP6, PROTO, PORT, LINK = (
    KeyType.IPV4_ADDR,
    KeyType.IPV6_ADDR,
    KeyType.INET_PROTO,
    KeyType.INET_SERVICE,
    KeyType.IFNAME,
)


def named(name: str, family: NftFamily = V4) -> NftSetKey:
    return NftSetKey(family, name)


ADDRESSES, RANGES, PORTS = named("addresses"), named("ranges"), named("ports")
VERDICTS = named("verdicts")
V6 = NftFamily.IPV6
SETS = [
    NftSet(ADDRESSES, (IP,)),
    NftSet(named("addresses", V6), (IP6,)),
    NftSet(RANGES, (IP,), SetForm.RANGES),
    NftSet(named("ranges", V6), (IP6,), SetForm.RANGES),
    NftSet(PORTS, (IP, PROTO, PORT)),
    NftSet(named("ports", V6), (IP6, PROTO, PORT)),
    NftSet(named("services"), (PROTO, PORT)),
    NftSet(named("links"), (LINK,)),
    NftSet(named("owners"), (LINK, IP)),
    NftSet(named("owners6", NftFamily.BRIDGE), (LINK, IP6)),
    NftSet(VERDICTS, (IP,), SetForm.VERDICTS),
    NftSet(named("verdicts", V6), (IP6,), SetForm.VERDICTS),
]
FORWARD = BaseHook("forward", -2)
ENDS = "10.255.255.255", "10.255.0.255"


@pytest.fixture(params=["netlink", "library", "process"])
def nftables(request: pytest.FixtureRequest, namespace: str) -> Nftables:
    assert namespace
    made = Nftables(direct=request.param == "netlink", library=request.param != "process")
    assert converge(TableDriver(made), TABLES) == {}
    return made


def key(name: str, family: NftFamily = V4) -> NftChainKey:
    return NftChainKey(family, name)


def packed(text: str) -> bytes:
    return ip_address(text).packed


WIDTH = {IP: 4, IP6: 16, PROTO: 4, PORT: 4, LINK: 16}


def element(row: NftSet, number: int) -> NftElement:
    """The number-th possible element of a set; ranges of different numbers do not overlap."""
    if row.form is SetForm.RANGES:
        width = WIDTH[row.types[0]]
        first = number << 8 * (width - 1)
        size = (1 << 8 * (width - 1)) if number % 3 else 5
        return NftElement(
            NftElementKey(row.key, first.to_bytes(width, "big"), (first + size - 1).to_bytes(width, "big"))
        )
    parts = {
        IP: bytes((number, 0, 0, 1)),
        IP6: bytes((number, *range(15))),
        PROTO: bytes(((6, 17, 132)[number % 3], 0, 0, 0)),
        PORT: bytes((number, number, 0, 0)),
        LINK: packed_link(f"veth{number}"),
    }
    return NftElement(NftElementKey(row.key, b"".join(parts[kind] for kind in row.types)))


def test_any_elements_become_any_others(nftables: Nftables) -> None:
    sets, elements = SetDriver(nftables), ElementDriver(nftables)
    dice = random.Random(7)
    plain = [row for row in SETS if row.form is not SetForm.VERDICTS]
    for _ in range(8):
        assert converge(sets, SETS) == {}
        assert owned(sets) == {row.key: row for row in SETS}
        state = {
            row.key: row
            for each in plain
            for number in (*dice.sample(range(256), dice.randrange(40)), 0, 255)
            for row in (element(each, number),)
        }
        assert converge(elements, state.values()) == {}
        assert owned(elements) == state
        if dice.random() < 0.3:
            assert converge(sets, []) == {}
            assert owned(sets) == {}


def test_the_whole_address_space_is_one_range(nftables: Nftables) -> None:
    """W8."""
    assert converge(SetDriver(nftables), SETS) == {}
    rows = [
        NftElement(NftElementKey(named("ranges", family), b"\0" * n, b"\xff" * n)) for family, n in ((V4, 4), (V6, 16))
    ]
    assert converge(ElementDriver(nftables), rows) == {}
    assert owned(ElementDriver(nftables)) == {row.key: row for row in rows}
    assert "0.0.0.0/0" in sh("nft", "list", "set", "ip", TABLE_NAME[V4], "ranges")
    assert sh("nft", "get", "element", "ip", TABLE_NAME[V4], "ranges", "{ 203.0.113.9 }")


def test_nft_reads_what_we_wrote(nftables: Nftables) -> None:
    assert converge(SetDriver(nftables), SETS) == {}
    rows = [
        NftElement(NftElementKey(ADDRESSES, packed("10.1.2.3"))),
        NftElement(NftElementKey(named("addresses", V6), packed("fd00::3"))),
        NftElement(NftElementKey(RANGES, packed("10.0.0.0"), packed("10.1.255.255"))),
        NftElement(NftElementKey(RANGES, packed("10.2.0.0"), packed("10.2.0.255"))),
        NftElement(NftElementKey(PORTS, packed("10.1.2.3") + packed_port(132, 80))),
        NftElement(NftElementKey(named("ports", V6), packed("fd00::3") + packed_port(17, 53))),
        NftElement(NftElementKey(named("owners"), packed_link("veth0123456789a") + packed("10.1.2.3"))),
    ]
    assert converge(ElementDriver(nftables), rows) == {}
    chain = make_nft_chain(key("KUBE-POD-FW-A"), ("counter drop",))
    assert converge(ChainDriver(nftables), [chain]) == {}
    verdicts = [
        NftVerdict(NftVerdictKey(VERDICTS, packed("10.1.2.3")), "KUBE-POD-FW-A"),
        NftVerdict(NftVerdictKey(VERDICTS, packed("10.1.2.4"))),
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
        'elements = { "veth0123456789a" . 10.1.2.3 }',
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
        make_nft_chain(key("KUBE-ROUTER-FORWARD", V6), (), hook=FORWARD),
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


def test_a_rule_of_ours_that_somebody_replaced_is_seen_and_put_right(nftables: Nftables) -> None:
    driver = ChainDriver(nftables)
    row = make_nft_chain(key("KUBE-NWPLCY-A"), ("tcp dport 80 accept", "counter drop"))
    assert converge(driver, [row]) == {}
    assert owned(driver) == {row.key: row}
    before = sh("nft", "list", "ruleset")
    for _ in range(2):
        handle = sh("nft", "-a", "list", "ruleset").partition("drop # handle ")[2].split()[0]
        rule = f"ip {TABLE_NAME[NftFamily.IPV4]} KUBE-NWPLCY-A handle {handle}"
        sh("nft", "-f", "-", stdin=f"replace rule {rule} counter packets 5 bytes 300 drop")
        assert owned(driver) == {row.key: row}, "what it has counted is no change"
        sh("nft", "-f", "-", stdin=f"replace rule {rule} counter accept")
        assert sh("nft", "list", "ruleset") != before
        assert owned(driver) != {row.key: row}
        assert converge(driver, [row]) == {}
        assert sh("nft", "list", "ruleset") == before
        assert owned(driver) == {row.key: row}


def test_a_refused_rule_takes_its_chain_to_the_fallback_and_no_other(nftables: Nftables) -> None:
    """W19, pain 29, bad_policy_isolated."""
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
    sh("nft", "add", "element", "ip", TABLE_NAME[V4], "ranges", "{ 10.0.0.0/8 }")
    inside = NftElement(NftElementKey(RANGES, packed("10.5.0.0"), packed("10.5.0.255")))
    beside = NftElement(NftElementKey(RANGES, packed("11.5.0.0"), packed("11.5.0.255")))
    homeless = NftElement(NftElementKey(named("no-such-set"), packed("10.0.0.1")))
    outcome = driver.write(Batch(add=(inside, beside, homeless)))
    assert set(outcome.failed) == {inside.key, homeless.key}
    assert "overlaps" in outcome.failed[inside.key]
    assert beside.key in owned(driver)
    assert converge(driver, [inside, beside]) == {}
    assert set(owned(driver)) == {inside.key, beside.key}
    sh("nft", "delete", "element", "ip", TABLE_NAME[V4], "ranges", "{ 10.5.0.0/24 }")
    assert not driver.write(Batch(remove=(inside, beside))).failed
    assert owned(driver) == {}


def test_sets_come_with_their_elements_and_what_is_refused_holds_nobody_up(nftables: Nftables) -> None:
    driver = SetDriver(nftables)
    table, plain = TABLE_NAME[V4], [row for row in SETS if row.form is not SetForm.VERDICTS]
    # One that stands already has no number in the transaction, and one that stands in another form cannot be made.
    sh("nft", "add", "set", "ip", table, "ports", "{ type ipv4_addr . inet_proto . inet_service; }")
    sh("nft", "add", "set", "ip", table, "services", "{ type ipv6_addr; }")
    good = [element(row, number) for row in plain if row.key.name != "services" for number in range(40, 80)]
    good += [NftElement(NftElementKey(ADDRESSES, packed(f"10.1.{n >> 8}.{n & 255}"))) for n in range(1200)]
    wide, inside = (NftElement(NftElementKey(RANGES, packed("10.0.0.0"), packed(last))) for last in ENDS)
    homeless = [element(row, 1) for row in plain if row.key.name == "services"]
    sets, elements = driver.fill(Batch(add=tuple(SETS)), Batch(add=(wide, *good, inside, *homeless)))
    assert {(key, text) for key, text in sets.failed.items()} == {(named("services"), "it overlaps with what is there")}
    assert set(elements.failed) == {inside.key, *(row.key for row in homeless)}
    assert owned(ElementDriver(nftables)) == {row.key: row for row in (wide, *good)}
    assert owned(driver).keys() == {row.key for row in SETS}


def test_a_verdict_whose_chain_is_missing_leaves_the_one_before_it(nftables: Nftables) -> None:
    """W13: a pod is known only by what stands."""
    assert converge(SetDriver(nftables), SETS) == {}
    assert converge(ChainDriver(nftables), [make_nft_chain(key("KUBE-POD-FW-A"), ("drop",))]) == {}
    driver = VerdictDriver(nftables)
    old = [NftVerdict(NftVerdictKey(VERDICTS, packed(f"10.0.0.{n}")), "KUBE-POD-FW-A") for n in range(3)]
    assert converge(driver, old) == {}
    new = [NftVerdict(old[0].key, "KUBE-NONE"), NftVerdict(old[1].key, ""), old[2]]
    assert set(converge(driver, new)) == {old[0].key}
    assert owned(driver) == {row.key: row for row in (old[0], new[1], old[2])}
    # What somebody else deleted meanwhile is put in all the same.
    sh("nft", "flush", "map", "ip", TABLE_NAME[V4], "verdicts")
    assert not driver.write(Batch(change=((old[2], NftVerdict(old[2].key)),), remove=(old[0],))).failed
    assert owned(driver) == {old[2].key: NftVerdict(old[2].key)}


def test_a_chain_in_use_cannot_be_removed_and_holds_nobody_up(nftables: Nftables) -> None:
    assert converge(SetDriver(nftables), SETS) == {}
    driver = ChainDriver(nftables)
    rows = [make_nft_chain(key(f"KUBE-POD-FW-{n}"), ("drop",)) for n in range(3)]
    assert converge(driver, rows) == {}
    used = NftVerdict(NftVerdictKey(VERDICTS, packed("10.0.0.1")), "KUBE-POD-FW-1")
    assert converge(VerdictDriver(nftables), [used]) == {}
    assert set(converge(driver, [])) == {rows[1].key}
    # It was not emptied either: its packets are still judged.
    assert owned(driver) == {rows[1].key: rows[1]}


def test_a_set_of_another_form_is_replaced(nftables: Nftables) -> None:
    driver = SetDriver(nftables)
    sh("nft", "add", "set", "ip", TABLE_NAME[V4], "addresses", "{ type ipv4_addr; flags timeout; }")
    sh("nft", "add", "set", "ip", TABLE_NAME[V4], "ports", "{ type ipv4_addr . mark; }")
    sh("nft", "add", "set", "ip", TABLE_NAME[V4], "links", "{ type ipv6_addr; }")
    assert owned(driver)[ADDRESSES].form is SetForm.STRANGE
    assert owned(driver)[PORTS].form is SetForm.STRANGE
    assert owned(driver)[named("links")].types == (IP6,)
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
