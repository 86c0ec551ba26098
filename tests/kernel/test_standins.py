"""What a kernel or a tool cannot do of a chain costs that part of it and no more."""

from __future__ import annotations

import pytest

from kuberouter.compilers.policies.iptables.policies import SPARES, invalid_rules, profile_rules
from kuberouter.compilers.policies.names import INVALID_CHAIN, REFUSED_CHAIN
from kuberouter.compilers.policies.nftables.policies import SPARES as NFT_SPARES
from kuberouter.compilers.policies.nftables.policies import profile_rules as nft_profile_rules
from kuberouter.drivers.iptables import ChainDriver, Variant, Xtables
from kuberouter.drivers.nftables import ChainDriver as NftChainDriver
from kuberouter.drivers.nftables import Nftables, TableDriver
from kuberouter.model.core import Batch, Family
from kuberouter.model.netfilter import Chain, ChainKey, Spares, Table, make_chain
from kuberouter.model.nftables import NftChain, NftChainKey, NftFamily, NftTable, NftTableKey, make_nft_chain
from kuberouter.model.policy import Direction
from tests.kernel.drive import converge, owned

pytestmark = pytest.mark.root

SEVERABLE: Spares = (("", ""),)
LACKED = "-m kube-router-lacks-this"
"""A match that no image and no kernel has."""
MANY = 70
"""More chains than there are tries."""


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def driver(
    request: pytest.FixtureRequest, namespace: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> ChainDriver:
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    return ChainDriver(Xtables(request.param), tuple(Family), ("KUBE-",))


def key(name: str) -> ChainKey:
    return ChainKey(Family.IPV4, Table.FILTER, name)


def aim(driver: ChainDriver) -> Chain:
    """The chain to which every profile jumps, written."""
    row = invalid_rules(Family.IPV4)
    assert driver.write(Batch(add=(row,))).failed == {}
    return row


def profile(number: int, *, log: str = "", answer: str = "") -> Chain:
    """A profile some of whose rules nobody takes."""
    whole = profile_rules(Family.IPV4, Direction.INGRESS, (), cut=False)
    rules = tuple(
        rule.replace("-m limit", f"{log} -m limit").replace("-j REJECT", f"{answer} -j REJECT") for rule in whole.rules
    )
    return make_chain(key(f"KUBE-POD-FW-{number}"), rules, fallback=whole.fallback, spares=whole.spares)


def without_log(row: Chain) -> Chain:
    return make_chain(row.key, tuple(rule for rule in row.rules if "NFLOG" not in rule))


def test_without_logging_every_profile_judges_and_refuses_as_before(driver: ChainDriver) -> None:
    invalid = aim(driver)
    rows = [profile(number, log=LACKED) for number in range(MANY)]
    outcome = driver.write(Batch(add=tuple(rows)))
    assert outcome.failed == {}
    assert owned(driver) == {invalid.key: invalid} | {row.key: without_log(row) for row in rows}
    # The same words for all, so that they are told once.
    assert set(outcome.instead) == {row.key for row in rows}
    (told,) = set(outcome.instead.values())
    assert "NFLOG" in told
    assert "left out" in told


def test_without_an_answer_a_profile_drops_what_it_refuses(driver: ChainDriver) -> None:
    aim(driver)
    row, other = profile(1, answer=LACKED), make_chain(key("KUBE-NWPLCY-A"), ("-p tcp -j RETURN",))
    outcome = driver.write(Batch(add=(row, other)))
    assert outcome.failed == {}
    rules = owned(driver)[row.key]
    assert rules == make_chain(row.key, (*row.rules[:-1], "-j DROP"))
    assert "'-j DROP' stands in" in outcome.instead[row.key]
    assert owned(driver)[other.key] == other
    both = profile(2, log=LACKED, answer=LACKED)
    assert driver.write(Batch(add=(both,))).failed == {}
    assert owned(driver)[both.key] == make_chain(both.key, (both.rules[0], "-j DROP"))


def test_a_profile_that_lacks_more_is_closed(driver: ChainDriver) -> None:
    invalid, whole = aim(driver), profile(1)
    row = make_chain(whole.key, ("-j KUBE-NO-SUCH", *whole.rules), fallback=whole.fallback, spares=SPARES)
    assert set(driver.write(Batch(add=(row,))).failed) == {row.key}
    assert owned(driver) == {invalid.key: invalid, row.key: make_chain(row.key, ("-j DROP",))}


def test_what_is_refused_without_a_line_goes_by_kind(driver: ChainDriver) -> None:
    # MASQUERADE outside nat is refused by the kernel at COMMIT; the legacy tool then blames nobody.
    rules = ("-p tcp -j RETURN", "-p udp -j MASQUERADE", "-p icmp -j DROP")
    row = make_chain(key("KUBE-POD-FW-1"), rules, fallback=("-j DROP",), spares=(("-j MASQUERADE", ""),))
    others = [make_chain(key(f"KUBE-NWPLCY-{n}"), ("-p udp -j RETURN",)) for n in range(5)]
    outcome = driver.write(Batch(add=(row, *others)))
    assert outcome.failed == {}
    assert owned(driver)[row.key] == make_chain(row.key, (rules[0], rules[2]))


def test_a_refused_rule_of_a_shared_chain_keeps_no_other_out(driver: ChainDriver) -> None:
    """A set of that name that is somebody else's, or a match that the kernel lacks: later pods get their verdict."""
    good = [f"-s 10.244.1.{n}/32 -j RETURN" for n in range(1, 4)]
    bad = ["-m set --match-set KUBE-NONE src -j RETURN", f"-s 10.244.1.9/32 {LACKED} -j DROP"]
    shared = make_chain(key("KUBE-ROUTER-POD-EGRESS"), (good[0], bad[0], good[1], bad[1], good[2]), spares=SEVERABLE)
    top = make_chain(key("KUBE-ROUTER-FORWARD"), ("-j KUBE-ROUTER-POD-EGRESS",))
    failed = converge(driver, [shared, top])
    assert set(failed) == {shared.key}
    assert all(rule in failed[shared.key] for rule in bad)
    assert not any(rule in failed[shared.key] for rule in good)
    assert owned(driver) == {shared.key: make_chain(shared.key, tuple(good)), top.key: top}


def test_a_rule_without_which_a_chain_means_something_else_is_not_left_out(driver: ChainDriver) -> None:
    bad = "-m set --match-set KUBE-NONE src -j RETURN"
    old = make_chain(key("KUBE-ROUTER-DIRECT"), ("-p tcp -j RETURN",))
    assert converge(driver, [old]) == {}
    new = make_chain(old.key, (bad, "-p udp -j DROP"), spares=((bad, bad), ("", "")))
    assert set(converge(driver, [new])) == {old.key}
    assert owned(driver) == {old.key: old}


@pytest.fixture(params=[True, False], ids=["netlink", "nft"])
def nft(request: pytest.FixtureRequest, namespace: str) -> NftChainDriver:
    assert namespace
    nftables = Nftables(direct=request.param)
    assert converge(TableDriver(nftables), [NftTable(NftTableKey(family)) for family in NftFamily]) == {}
    return NftChainDriver(nftables)


def test_nftables_without_logging_or_an_answer_judges_as_before(nft: NftChainDriver) -> None:
    whole = nft_profile_rules(Family.IPV4, Direction.INGRESS, (), cut=True)
    lacked = "ip saddr @KUBE-NONE"
    logless = tuple(f"{lacked} {rule}" if "log prefix" in rule else rule for rule in whole.rules)
    mute = tuple(f"{lacked} {rule}" if "reject" in rule else rule for rule in whole.rules)
    rows = [
        make_nft_chain(
            NftChainKey(NftFamily.IPV4, f"KUBE-POD-FW-{name}"), rules, fallback=whole.fallback, spares=NFT_SPARES
        )
        for name, rules in (("LOGLESS", logless), ("WHOLE", whole.rules))
    ]
    aims = [make_nft_chain(NftChainKey(NftFamily.IPV4, name), ("drop",)) for name in (INVALID_CHAIN, REFUSED_CHAIN)]
    outcome = nft.write(Batch(add=(*aims, *rows)))
    assert outcome.failed == {}
    held: dict[object, NftChain] = dict(owned(nft))
    assert held[rows[0].key] == make_nft_chain(rows[0].key, tuple(r for r in whole.rules if "log prefix" not in r))
    (told,) = set(outcome.instead.values())
    assert "log prefix" in told
    row = make_nft_chain(rows[0].key, mute, fallback=whole.fallback, spares=NFT_SPARES)
    outcome = nft.write(Batch(add=(row,)))
    assert outcome.failed == {}
    assert "reject with" in outcome.instead[row.key]
    assert (
        owned(nft)[row.key].tag
        == make_nft_chain(row.key, tuple("counter drop" if "reject" in r else r for r in mute)).tag
    )
