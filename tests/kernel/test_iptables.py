"""Chains and hooks against the real kernel, in both variants, beside rules of others."""

from __future__ import annotations

import pytest

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies import IPTABLES
from kuberouter.compilers.policies.iptables.policies import profile_rules
from kuberouter.drivers.ipsets import SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables, detect_variant
from kuberouter.model.core import Batch, Family, ObjectRef, Owner, Prefix
from kuberouter.model.netfilter import Chain, ChainKey, Hook, HookKey, HookRank, IpSet, Position, Table, make_chain
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings
from tests.kernel.drive import converge, owned, sh

PREFIXES = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
NODE = NodeFacts(
    "n1",
    (bytes((10, 0, 0, 1)), bytes(15) + b"\1"),
    (Prefix(bytes((10, 244, 0, 0)), 24), Prefix(b"\xfd\x44" + bytes(14), 64)),
    enabled=tuple(Family),
)


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def xtables(
    request: pytest.FixtureRequest, namespace: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> Xtables:
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    return Xtables(request.param)


def key(name: str, family: Family = Family.IPV4, table: Table = Table.FILTER) -> ChainKey:
    return ChainKey(family, table, name)


def chains(xtables: Xtables) -> ChainDriver:
    return ChainDriver(xtables, tuple(Family), PREFIXES)


def hooks(xtables: Xtables) -> HookDriver:
    return HookDriver(xtables, tuple(Family))


def hook(text: str, rank: HookRank, chain: str = "FORWARD", position: Position = Position.FIRST) -> Hook:
    return Hook(HookKey(Family.IPV4, Table.FILTER, chain, text), rank, position)


def saved(xtables: Xtables, table: str = "filter") -> list[str]:
    """A table as the tool prints it, without the remarks, which tell the time."""
    lines = sh(xtables.tool(Family.IPV4, "save"), "-t", table).splitlines()
    return [line for line in lines if not line.startswith("#")]


RANGES = (Prefix(bytes((10, 96, 0, 0)), 12), Prefix(b"\xfd" + bytes(15), 112))
PLAIN = FirewallSettings(cluster_ranges=RANGES)
STRICT = FirewallSettings(cluster_ranges=RANGES, default_deny=True, cut_flows=True)


@pytest.mark.parametrize("settings", [PLAIN, STRICT], ids=["plain", "strict"])
def test_what_the_compilers_write_is_read_back_as_it_was_meant(xtables: Xtables, settings: FirewallSettings) -> None:
    fixed = dict(IPTABLES)["firewall"](
        Owner("firewall", ObjectRef("Node", "", "n1")), ClusterView(), node=NODE, settings=settings
    ).rows
    assert converge(SetDriver(lambda name: True), [row for row in fixed if isinstance(row, IpSet)]) == {}
    rows = [row for row in fixed if isinstance(row, Chain)]
    rows += [make_chain(key(f"KUBE-ROUTER-POD-{d}", f), ()) for f in Family for d in ("EGRESS", "INGRESS", "GUARD")]
    for family in Family:
        body = make_chain(key("KUBE-NWPLCY-A", family), ("-p tcp -m multiport --dports 80,90:99 -g KUBE-NWPLCY-ALLOW",))
        rows += [body, profile_rules(family, Direction.INGRESS, ("KUBE-NWPLCY-A",), cut=settings.cut_flows)]
    driver = chains(xtables)
    assert converge(driver, rows) == {}
    assert owned(chains(xtables)) == {row.key: row for row in rows}
    wanted = [row for row in fixed if isinstance(row, Hook)]
    assert wanted
    assert converge(hooks(xtables), wanted) == {}
    # A process that never wrote them must know them too, or a restart would put them in twice.
    assert owned(hooks(xtables)) == {row.key: row for row in wanted}
    assert converge(hooks(xtables), []) == {}
    assert converge(chains(xtables), []) == {}
    assert owned(chains(xtables)) == {}


def test_neighbours_survive(xtables: Xtables) -> None:
    tool = f"iptables-{xtables.variant.value}"
    sh(tool, "-N", "OTHERS")
    sh(tool, "-A", "OTHERS", "-s", "192.0.2.1", "-j", "DROP")
    sh(tool, "-A", "FORWARD", "-m", "comment", "--comment", "keep COMMIT", "-j", "OTHERS")
    before = [line for line in saved(xtables) if line.startswith(("-A", ":OTHERS"))]
    driver, placer = chains(xtables), hooks(xtables)
    target = make_chain(key("KUBE-ROUTER-FORWARD"), ("-j RETURN",))
    assert converge(driver, [target]) == {}
    assert converge(placer, [hook("-j KUBE-ROUTER-FORWARD", HookRank.POLICY)]) == {}
    assert [line for line in saved(xtables) if line in before] == before
    assert converge(placer, []) == {}
    assert converge(driver, []) == {}
    assert [line for line in saved(xtables) if line.startswith(("-A", ":OTHERS"))] == before


@pytest.mark.parametrize("family", list(Family), ids=lambda f: f.name)
def test_chains_and_hooks_of_the_mangle_table(xtables: Xtables, family: Family) -> None:
    tool = f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{xtables.variant.value}"
    foreign = ["-A PREROUTING -p udp -j MARK --set-xmark 0x5/0xffffffff", "-A POSTROUTING -p tcp -j RETURN"]
    for rule in foreign:
        sh(tool, "-t", "mangle", *rule.split())
    address = "192.0.2.9/32" if family is Family.IPV4 else "2001:db8::9/128"
    marked = make_chain(
        key("KUBE-ROUTER-MARK", family, Table.MANGLE),
        (f"-d {address} -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x235e/0xffffffff",),
    )
    places = [
        Hook(HookKey(family, Table.MANGLE, chain, f"-j {marked.key.name}"), HookRank.MARK)
        for chain in ("PREROUTING", "OUTPUT")
    ]
    assert converge(chains(xtables), [marked]) == {}
    assert converge(hooks(xtables), places) == {}
    assert owned(chains(xtables)) == {marked.key: marked}
    assert owned(hooks(xtables)) == {row.key: row for row in places}
    assert converge(hooks(xtables), []) == {}
    assert converge(chains(xtables), []) == {}
    left = sh(tool + "-save", "-t", "mangle").splitlines()
    assert [line for line in left if line.startswith("-A")] == foreign


def test_a_refused_rule_takes_its_chain_to_the_fallback_and_no_other(xtables: Xtables) -> None:
    """W19, pain 29, bad_policy_isolated."""
    driver = chains(xtables)
    bad = make_chain(key("KUBE-NWPLCY-BAD"), ("-m set --match-set KUBE-NONE src -j RETURN",), fallback=())
    profile = make_chain(key("KUBE-POD-FW-P"), ("-j KUBE-NWPLCY-BAD", "-j REJECT --reject-with icmp-port-unreachable"))
    good = make_chain(key("KUBE-NWPLCY-GOOD"), ("-p tcp -j RETURN",))
    failed = converge(driver, [bad, profile, good])
    assert set(failed) == {bad.key}
    assert "KUBE-NONE" in failed[bad.key]
    assert owned(driver) == {bad.key: make_chain(bad.key, ()), profile.key: profile, good.key: good}


def test_a_refusal_without_a_line_is_narrowed_down(xtables: Xtables) -> None:
    """W19: also where the tool blames nobody."""
    driver = chains(xtables)
    # MASQUERADE outside nat is refused by the kernel at COMMIT; the legacy tool then blames the last line.
    bad = make_chain(key("KUBE-NWPLCY-BAD"), ("-j MASQUERADE",), fallback=("-j DROP",))
    user = make_chain(key("KUBE-POD-FW-P"), ("-j KUBE-NWPLCY-BAD",))
    others = [make_chain(key(f"KUBE-NWPLCY-{n}"), ("-p udp -j RETURN",)) for n in range(5)]
    failed = converge(driver, [user, bad, *others])
    assert set(failed) == {bad.key}
    assert owned(driver)[bad.key] == make_chain(bad.key, ("-j DROP",))
    assert owned(driver)[user.key] == user


def test_a_chain_without_fallback_keeps_what_it_held(xtables: Xtables) -> None:
    driver = chains(xtables)
    old = make_chain(key("KUBE-ROUTER-FORWARD"), ("-p tcp -j RETURN",))
    assert converge(driver, [old]) == {}
    new = make_chain(old.key, ("-j NO-SUCH-CHAIN",))
    other = make_chain(key("KUBE-ROUTER-INPUT"), ("-p udp -j RETURN",))
    assert set(converge(driver, [new, other])) == {old.key}
    assert owned(driver) == {old.key: old, other.key: other}


def test_a_chain_that_somebody_jumps_to_cannot_be_removed_and_holds_nobody_up(xtables: Xtables) -> None:
    driver = chains(xtables)
    rows = [make_chain(key(f"KUBE-NWPLCY-{n}"), ("-p tcp -j RETURN",)) for n in range(3)]
    assert converge(driver, rows) == {}
    sh(f"iptables-{xtables.variant.value}", "-A", "FORWARD", "-j", "KUBE-NWPLCY-1")
    assert set(converge(driver, [])) == {rows[1].key}
    assert owned(driver) == {rows[1].key: make_chain(rows[1].key, ())}, "what stays judges nobody"


def test_foreign_rules_in_our_chain_are_seen_and_put_right(xtables: Xtables) -> None:
    driver = chains(xtables)
    row = make_chain(key("KUBE-ROUTER-FORWARD"), ("-p tcp -j RETURN",))
    assert converge(driver, [row]) == {}
    sh(f"iptables-{xtables.variant.value}", "-I", "KUBE-ROUTER-FORWARD", "-j", "ACCEPT")
    assert owned(driver) != {row.key: row}
    assert converge(driver, [row]) == {}
    assert owned(driver) == {row.key: row}


def test_a_rule_of_ours_that_somebody_replaced_is_seen_and_put_right(xtables: Xtables) -> None:
    """Only the first rule says what all are; the others are held to how they were printed when last read."""
    driver = chains(xtables)
    row = make_chain(key("KUBE-ROUTER-X"), ("-p tcp -j RETURN", "-p udp -j RETURN", "-j DROP"))
    assert converge(driver, [row]) == {}
    assert owned(driver) == {row.key: row}
    before = saved(xtables)
    for _ in range(2):
        sh(xtables.tool(Family.IPV4, "restore"), "--noflush", stdin="*filter\n-R KUBE-ROUTER-X 3 -j ACCEPT\nCOMMIT\n")
        assert saved(xtables) != before
        assert owned(driver) != {row.key: row}
        assert converge(driver, [row]) == {}
        assert saved(xtables) == before
        assert owned(driver) == {row.key: row}


def test_hooks_lead_their_chain_in_order_of_rank(xtables: Xtables) -> None:
    """W22: ours among themselves, and above what others put first."""
    tool = f"iptables-{xtables.variant.value}"
    names = ("KUBE-ROUTER-A", "KUBE-ROUTER-B")
    assert converge(chains(xtables), [make_chain(key(name), ()) for name in names]) == {}
    later, first = hook("-j KUBE-ROUTER-B", HookRank.SERVICES), hook("-j KUBE-ROUTER-A", HookRank.POLICY)
    last = hook("-s 192.0.2.0/24 -j ACCEPT", HookRank.FORWARD, position=Position.LAST)
    placer = hooks(xtables)
    assert converge(placer, [later]) == {}
    assert converge(placer, [later, first, last]) == {}
    sh(tool, "-I", "FORWARD", "-p", "tcp", "-j", "ACCEPT")
    assert {row.in_place for row in owned(placer).values() if row.position is Position.FIRST} == {False}
    assert converge(placer, [later, first, last]) == {}
    assert owned(hooks(xtables)) == {row.key: row for row in (later, first, last)}
    order = [line.split()[-1] for line in saved(xtables) if line.startswith("-A FORWARD")]
    assert order == ["KUBE-ROUTER-A", "KUBE-ROUTER-B", "ACCEPT", "ACCEPT"]
    # A copy that somebody's save and restore brought back goes.
    line = next(line for line in saved(xtables) if "-j KUBE-ROUTER-A" in line)
    sh(xtables.tool(Family.IPV4, "restore"), "--noflush", stdin=f"*filter\n{line}\nCOMMIT\n")
    assert not owned(placer)[first.key].in_place
    assert converge(placer, [later, first, last]) == {}
    assert sum("-j KUBE-ROUTER-A" in line for line in saved(xtables)) == 1


def test_a_hook_that_somebody_took_away_takes_nobody_elses_rule_with_it(xtables: Xtables) -> None:
    """W22: what is not found any more is not looked for by its number."""
    tool = f"iptables-{xtables.variant.value}"
    placer, ours = hooks(xtables), hook("-p udp -j ACCEPT", HookRank.POLICY)
    for address in ("192.0.2.1", "192.0.2.2"):
        sh(tool, "-A", "FORWARD", "-s", address, "-j", "DROP")
    before = saved(xtables)
    assert converge(placer, [ours]) == {}
    found = owned(placer)
    sh(tool, "-D", "FORWARD", "1")
    assert not placer.write(Batch(remove=tuple(found.values()))).failed
    assert saved(xtables) == before
    assert not placer.write(Batch(change=((ours, ours),))).failed
    assert [line for line in saved(xtables) if "kube-router" not in line] == before
    assert owned(placer) == {ours.key: ours}


def test_a_missing_table_of_hooks_is_one_failed_row(xtables: Xtables) -> None:
    placer = hooks(xtables)
    good = hook("-p tcp -j ACCEPT", HookRank.FORWARD)
    bad = hook("-j NO-SUCH-CHAIN", HookRank.POLICY)
    assert set(converge(placer, [good, bad])) == {bad.key}
    assert owned(placer) == {good.key: good}


def test_the_variant_is_the_one_in_which_the_kubelet_left_its_hint(namespace: str) -> None:
    assert namespace
    assert detect_variant() is Variant.NFT
    sh("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    assert detect_variant() is Variant.LEGACY
    sh("iptables-nft", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    assert detect_variant() is Variant.NFT


def test_empty_batch_runs_nothing(xtables: Xtables) -> None:
    assert not chains(xtables).write(Batch()).failed
    assert not hooks(xtables).write(Batch()).failed


def test_hooks_of_another_daemons_controllers_are_left_alone(xtables: Xtables) -> None:
    policy = hook("-p udp -j ACCEPT", HookRank.POLICY)
    guard = hook("-p tcp -j ACCEPT", HookRank.SERVICES)
    proxy = HookDriver(xtables, tuple(Family), ranks=(HookRank.SERVICES, HookRank.MASQUERADE))
    firewall = HookDriver(xtables, tuple(Family), ranks=(HookRank.POLICY,))
    assert converge(proxy, [guard]) == {}
    assert converge(firewall, [policy]) == {}
    assert owned(proxy) == {guard.key: guard}
    assert converge(firewall, []) == {}
    assert owned(firewall) == {}
    assert owned(proxy) == {guard.key: guard}
