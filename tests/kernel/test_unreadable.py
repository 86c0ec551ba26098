"""Rules in tables of iptables that its tools cannot read: nobody's rules suffer, ours are kept up all the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.model.core import Family
from kuberouter.model.netfilter import Chain, ChainKey, Hook, HookKey, HookRank, Position, Table, make_chain
from kuberouter.wire.text.iptables import SavedRule, SavedTable, parse_tables
from kuberouter.wire.text.tags import SavedChain
from kuberouter.wire.xtlegacy import marks, table_names
from tests.kernel.drive import converge, owned, sh

pytestmark = pytest.mark.root

SYNCS = 10
NATIVE = "numgen random mod 2 vmap { 1 : drop }"
"""No tool of iptables has words for it."""


RANDOM = ("-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "DROP")
WHOLE = ("env", "-u", "XTABLES_LIBDIR")
"""Runs a tool with all of its extensions."""


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def xtables(request: pytest.FixtureRequest, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Xtables:
    """Somebody draws lots in a chain of his own and in a builtin one."""
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    found = Xtables(request.param)
    for family in Family:
        tool = found.tool(family, "save").removesuffix("-save")
        sh(tool, "-N", "OPS")
        for chain in ("OPS", "FORWARD"):
            sh(tool, "-A", chain, *RANDOM)
    return found


def native() -> None:
    """Somebody works with nft in the same table, in a chain of his own and in a builtin one."""
    sh("nft", f"add rule ip filter OPS {NATIVE}")
    sh("iptables-nft", "-I", "FORWARD", "-s", "203.0.113.0/24", "-j", "OPS")
    sh("nft", f"add rule ip filter FORWARD {NATIVE}")


@pytest.fixture
def lacking(xtables: Xtables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image has no extension for a match that the host's iptables knows."""
    assert xtables
    (extensions,) = Path("/usr/lib").glob("*/xtables")
    shutil.copytree(extensions, tmp_path / "xtables")
    (tmp_path / "xtables" / "libxt_statistic.so").unlink()
    monkeypatch.setenv("XTABLES_LIBDIR", str(tmp_path / "xtables"))


def foreign(xtables: Xtables) -> dict[str, list[str]]:
    """Everything in others' chains that is not ours, as the kernel tells it."""
    if xtables.variant is Variant.LEGACY:
        saved = sh(*WHOLE, "iptables-legacy-save", "-t", "filter").splitlines()
        return {"": [line for line in saved if line[:1] in (":", "-") and "KUBE-ROUTER" not in line]}
    found: dict[str, list[str]] = {}
    for part in sh("nft", "list", "table", "ip", "filter").split("\tchain ")[1:]:
        name, *lines = part.splitlines()
        found[name] = [line for line in lines if ("KUBE-ROUTER" not in line and "counter" in line) or "numgen" in line]
    return {name: lines for name, lines in found.items() if lines and "KUBE-ROUTER" not in name}


def standing(xtables: Xtables) -> tuple[list[str], int]:
    """Our chains to which a builtin one jumps, in order, and how many chains of ours there are."""
    if xtables.variant is Variant.LEGACY:
        lines, chain = sh(*WHOLE, "iptables-legacy-save", "-t", "filter").splitlines(), ":"
    else:
        lines, chain = [line.strip() for line in sh("nft", "list", "table", "ip", "filter").splitlines()], "chain "
    jumps = [line.split()[-1] for line in lines if "-j KUBE-ROUTER" in line or "jump KUBE-ROUTER" in line]
    return jumps, sum(line.startswith(f"{chain}KUBE-ROUTER-") for line in lines)


def state(number: int) -> tuple[list[Chain], list[Hook]]:
    """Our chains, of which some change each time, and our hooks."""
    names = ("KUBE-ROUTER-A", "KUBE-ROUTER-B", f"KUBE-ROUTER-{number % 3}")
    chains = [make_chain(ChainKey(Family.IPV4, Table.FILTER, n), (f"-s 10.0.0.{number}/32 -j RETURN",)) for n in names]
    ranks = {"KUBE-ROUTER-A": HookRank.POLICY, "KUBE-ROUTER-B": HookRank.SERVICES}
    hooks = [Hook(HookKey(Family.IPV4, Table.FILTER, "FORWARD", f"-j {n}"), rank) for n, rank in ranks.items()]
    return chains, hooks


def keeps_up(xtables: Xtables) -> None:
    """Bring our state through some generations, each by a process that knows nothing of the one before."""
    before = foreign(xtables)
    assert before
    for number in range(SYNCS):
        chains = ChainDriver(xtables, (Family.IPV4,), ("KUBE-ROUTER-",))
        hooks = HookDriver(xtables, (Family.IPV4,))
        wanted, placed = state(number)
        kept = [row for row in owned(chains).values() if row.key not in {chain.key for chain in wanted}]
        assert converge(chains, [*wanted, *kept]) == {}
        assert converge(hooks, placed) == {}
        assert converge(chains, wanted) == {}
        assert owned(chains) == {row.key: row for row in wanted}
        assert owned(hooks) == {row.key: row for row in placed}
    jumps, own = standing(xtables)
    assert jumps == ["KUBE-ROUTER-A", "KUBE-ROUTER-B"]
    assert own == 3
    assert foreign(xtables) == before


@pytest.mark.parametrize("xtables", [Variant.NFT], indirect=True, ids=["nft"])
def test_rules_of_nft_in_the_same_table_hold_nobody_up(xtables: Xtables) -> None:
    """Pain 27, foreign_rule_fidelity: what iptables has no words for stays, and our jumps do not double."""
    native()
    assert "incompatible" in sh("iptables-nft-save")
    keeps_up(xtables)


@pytest.mark.usefixtures("lacking")
def test_a_match_that_the_image_lacks_holds_nobody_up(xtables: Xtables) -> None:
    """Pain 27, foreign_rule_fidelity: an extension of the host's iptables."""
    if xtables.variant is Variant.LEGACY:
        with pytest.raises(subprocess.CalledProcessError):
            sh("iptables-legacy-save")
    keeps_up(xtables)


@pytest.mark.parametrize("xtables", [Variant.LEGACY], indirect=True, ids=["legacy"])
def test_both_readers_see_the_same_of_ours(xtables: Xtables) -> None:
    """What the kernel tells of legacy tables against what the tool prints of them."""
    for family in Family:
        rows: list[Chain] = []
        placed: list[Hook] = []
        for table, builtin in ((Table.FILTER, "INPUT"), (Table.FILTER, "FORWARD"), (Table.NAT, "POSTROUTING")):
            for name in ("KUBE-ROUTER-EMPTY", "KUBE-ROUTER-FULL"):
                texts = ("-p tcp -j RETURN", "-p udp -m udp --dport 53 -j RETURN") if name.endswith("FULL") else ()
                rows.append(make_chain(ChainKey(family, table, name), texts))
            for rank, place in ((HookRank.POLICY, Position.FIRST), (HookRank.SERVICES, Position.LAST)):
                placed.append(Hook(HookKey(family, table, builtin, f"-p {rank} -j KUBE-ROUTER-FULL"), rank, place))
        assert converge(ChainDriver(xtables, (family,), ("KUBE-ROUTER-",)), rows) == {}
        assert converge(HookDriver(xtables, (family,)), placed) == {}
        tool = xtables.tool(family, "restore")
        sh(tool, "--noflush", stdin="*filter\n-A KUBE-ROUTER-FULL -m comment --comment kube-router:x -j DROP\nCOMMIT\n")
        printed = parse_tables(sh(xtables.tool(family, "save")))
        assert set(printed) == {"filter", "nat"}
        known = {
            name: SavedTable(
                {c: [plain(rule) for rule in rules] for c, rules in table.builtin.items()},
                {c: SavedChain(chain.tag) for c, chain in table.chains.items()},
            )
            for name, table in printed.items()
        }
        assert marks(family, [table.value for table in Table]) == known
        assert (
            sum(rule.place != "" for table in known.values() for rules in table.builtin.values() for rule in rules) == 6
        )


def plain(rule: SavedRule) -> SavedRule:
    """A rule without its words."""
    return SavedRule("", rule.tag, rule.place, rule.rank)


def test_looking_at_legacy_tables_makes_none(namespace: str) -> None:
    assert namespace
    for family in Family:
        assert marks(family, [table.value for table in Table]) == {}
        assert table_names(family) == ()
