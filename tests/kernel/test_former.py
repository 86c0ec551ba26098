"""The iptables variant that is not in use: ours goes out of it, others' stays, and people are told of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kuberouter.daemon.xtables import LOOK_AFTER, Surveyed, XtablesChoice, other
from kuberouter.drivers.former import FormerChainDriver, FormerHookDriver, survey
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.engine.journal import Journal
from kuberouter.model.core import Family, Reason, Unavailable
from kuberouter.model.netfilter import ChainKey, Hook, HookKey, HookRank, Table, make_chain
from tests.kernel.drive import converge, owned, sh

PREFIXES = ("KUBE-ROUTER-", "KUBE-POD-FW-")
FAMILIES = tuple(Family)


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def aside(request: pytest.FixtureRequest, namespace: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Xtables:
    """The variant that is not in use."""
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    return Xtables(request.param)


def lines(xtables: Xtables, family: Family = Family.IPV4) -> list[str]:
    return [line for line in sh(xtables.tool(family, "save")).splitlines() if line[:1] in ("-", "*")]


def fill(xtables: Xtables) -> None:
    """What a daemon leaves: chains that refer to each other, hooks in two tables and both families."""
    rows, hooks = [], []
    for family in Family:
        for table, builtin in ((Table.FILTER, "FORWARD"), (Table.NAT, "POSTROUTING")):
            pod = make_chain(ChainKey(family, table, "KUBE-POD-FW-A"), ("-p tcp -j RETURN",))
            rows += [pod, make_chain(ChainKey(family, table, "KUBE-ROUTER-X"), ("-j KUBE-POD-FW-A",))]
            hooks.append(Hook(HookKey(family, table, builtin, "-j KUBE-ROUTER-X"), HookRank.POLICY))
    assert converge(ChainDriver(xtables, FAMILIES, PREFIXES), rows) == {}
    assert converge(HookDriver(xtables, FAMILIES), hooks) == {}


def test_ours_is_taken_out_and_others_rules_stay_as_they_are(aside: Xtables) -> None:
    for family in Family:
        tool = aside.tool(family, "restore")
        others = "*filter\n:OTHERS - [0:0]\n-A OTHERS -j DROP\n-A FORWARD -p tcp -j OTHERS\nCOMMIT\n"
        sh(tool, "--noflush", stdin=others)
    before = {family: lines(aside, family) for family in Family}
    fill(aside)
    places = ((aside, FAMILIES),)
    hooks, chains = FormerHookDriver(places), FormerChainDriver(places, PREFIXES)
    assert (len(owned(hooks)), len(owned(chains))) == (4, 8)
    assert converge(hooks, []) == {}
    assert converge(chains, []) == {}
    assert (owned(hooks), owned(chains)) == ({}, {})
    for family in Family:
        assert [line for line in lines(aside, family) if line != "*nat"] == before[family]


def test_hooks_of_another_daemons_controllers_stay(aside: Xtables) -> None:
    fill(aside)
    places = ((aside, FAMILIES),)
    assert owned(FormerHookDriver(places, ranks=(HookRank.SERVICES,))) == {}
    assert len(owned(FormerHookDriver(places, ranks=(HookRank.POLICY,)))) == 4


def test_a_family_that_is_turned_off_leaves_nothing_of_ours_in_either_variant(aside: Xtables) -> None:
    """W15: what an earlier configuration wanted would go on judging packets."""
    used = other(aside)
    fill(aside)
    fill(used)
    choice = XtablesChoice(used.variant.value, "n1", (Family.IPV4,), PREFIXES, Journal())
    hooks, chains = FormerHookDriver(choice.aside()), FormerChainDriver(choice.aside(), PREFIXES)
    assert {key.family for key in owned(hooks)} == set(Family)  # type: ignore[attr-defined]  # keys of hooks
    before = lines(used)
    assert any("KUBE-ROUTER-X" in line for line in before)
    assert converge(hooks, []) == {}
    assert converge(chains, []) == {}
    assert lines(used) == before, "the family in use stays"
    left = [*lines(used, Family.IPV6), *lines(aside), *lines(aside, Family.IPV6)]
    assert [line for line in left if "KUBE-" in line] == []


def test_looking_makes_no_table(namespace: str) -> None:
    assert namespace
    legacy = Xtables(Variant.LEGACY)
    assert owned(FormerHookDriver(((legacy, FAMILIES),))) == {}
    assert owned(FormerChainDriver(((legacy, FAMILIES),), PREFIXES)) == {}
    assert survey(legacy, FAMILIES, PREFIXES).others == ()
    for name in ("ip_tables_names", "ip6_tables_names"):
        path = Path("/proc/thread-self/net") / name
        assert not path.exists() or path.read_text() == ""


def test_rules_of_others_in_the_other_variant_are_one_problem_of_the_node(aside: Xtables) -> None:
    """Pain 27."""
    used = other(aside)
    journal = Journal()
    choice = XtablesChoice(used.variant.value, "n1", FAMILIES, PREFIXES, journal)
    fill(aside)
    assert choice.get().variant is used.variant
    assert choice.other().variant is aside.variant
    assert journal.standing == ()
    sh(f"iptables-{aside.variant.value}", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    sh(f"ip6tables-{aside.variant.value}", "-t", "nat", "-A", "OUTPUT", "-j", "RETURN")
    XtablesChoice(used.variant.value, "n1", FAMILIES, PREFIXES, journal).get()
    (problem,) = journal.standing
    assert (problem.owner.kind, problem.owner.name, problem.reason) == ("Node", "n1", Reason.CONFLICT)
    assert "(1 in IPv4 filter, 1 in IPv6 nat)" in problem.message
    assert "--iptables-mode" in problem.message


def test_rules_that_this_version_cannot_read_are_told(namespace: str) -> None:
    """Pain 27."""
    assert namespace
    chain = "add table ip filter; add chain ip filter INPUT { type filter hook input priority 0; };"
    sh("nft", f"{chain} add rule ip filter INPUT numgen random mod 2 vmap {{ 1 : drop }}")
    journal = Journal()
    XtablesChoice("nft", "n1", FAMILIES, PREFIXES, journal).get()
    (problem,) = journal.standing
    assert problem.reason is Reason.UNSUPPORTED
    assert "iptables-nft of this image cannot read" in problem.message


def test_who_comes_later_is_told_of_at_an_audit(namespace: str) -> None:
    """Pain 27: a node boots, and the kubelet comes up behind the daemon, with the other variant."""
    assert namespace
    now, journal = [0.0], Journal()
    choice = XtablesChoice("auto", "n1", FAMILIES, PREFIXES, journal, clock=lambda: now[0])
    driver = Surveyed(ChainDriver(choice.get(), FAMILIES, PREFIXES), choice)
    assert choice.get().variant is Variant.NFT
    sh("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    assert owned(driver) == {}
    assert journal.standing == (), "that was a moment ago"
    now[0] += LOOK_AFTER
    assert owned(driver) == {}
    late, others = journal.standing
    assert (late.owner.kind, late.reason) == ("Node", Reason.CONFLICT)
    assert "the kubelet has taken iptables-legacy" in late.message
    assert "(1 in IPv4 filter)" in others.message
    assert choice.get().variant is Variant.NFT, "rules of ours in both would be worse"
    sh("iptables-legacy", "-F", "INPUT")
    sh("iptables-legacy", "-t", "mangle", "-X", "KUBE-KUBELET-CANARY")
    now[0] += LOOK_AFTER
    assert owned(driver) == {}
    assert journal.standing == ()


def test_a_mode_that_was_asked_for_is_no_matter_of_the_kubelets(namespace: str) -> None:
    assert namespace
    now, journal = [0.0], Journal()
    choice = XtablesChoice("nft", "n1", FAMILIES, PREFIXES, journal, clock=lambda: now[0])
    choice.get()
    sh("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    now[0] += LOOK_AFTER
    choice.look()
    assert journal.standing == ()


def test_the_mode_that_is_asked_for_is_taken_whatever_the_kubelet_does(namespace: str, tmp_path: Path) -> None:
    """Programs beside the daemon are told which one it is."""
    assert namespace
    note = tmp_path / "variant"
    sh("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    for mode, variant in (("auto", Variant.LEGACY), ("legacy", Variant.LEGACY), ("nft", Variant.NFT)):
        choice = XtablesChoice(mode, "n1", FAMILIES, PREFIXES, Journal(), note=note)
        assert choice.get().variant is variant
        assert note.read_text() == f"{variant.value}\n"


def test_a_mode_whose_tools_are_missing_is_told_by_name(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert namespace
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="iptables-legacy-restore is not installed"):
        XtablesChoice("legacy", "n1", FAMILIES, PREFIXES, Journal()).get()


def cleanup(*before: str, path: str) -> tuple[int, str]:
    """Exit code and complaints of a cleanup with this search path for tools."""
    words = (*before, sys.executable, "-m", "kuberouter", "--cleanup-config")
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, env={"PATH": path}, cwd=root, timeout=60)
    return done.returncode, done.stderr


def test_what_cannot_be_looked_at_is_told_by_cleanup_and_not_taken_for_nothing(aside: Xtables) -> None:
    nowhere = "/nonexistent"
    assert cleanup(path=nowhere) == (0, "")
    fill(aside)
    code, said = cleanup(path=nowhere)
    assert code == 1
    tool = aside.tool(Family.IPV4, "save")
    assert f"IPv4 rules of iptables-{aside.variant.value} cannot be looked at: {tool} is not installed" in said
    drop = ("/usr/bin/setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert cleanup(*drop, path=nowhere) == (1, "this takes the capability NET_ADMIN: Operation not permitted\n")
    assert len(lines(aside)) > 2
