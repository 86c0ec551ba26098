"""Rules in tables of iptables that its tools cannot read: nobody's rules suffer, ours are kept up all the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.model.core import Family
from kuberouter.model.netfilter import Chain, ChainKey, Hook, HookKey, HookRank, Table, make_chain
from tests.kernel.drive import converge, owned, sh

pytestmark = pytest.mark.root

SYNCS = 10
NATIVE = "numgen random mod 2 vmap { 1 : drop }"
"""No tool of iptables has words for it."""


@pytest.fixture
def xtables(namespace: str) -> Xtables:
    assert namespace
    sh("iptables-nft", "-N", "OPS")
    sh("iptables-nft", "-A", "OPS", "-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "DROP")
    return Xtables(Variant.NFT)


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


def foreign() -> dict[str, list[str]]:
    """Everything in others' chains that is not ours, as the kernel tells it."""
    found: dict[str, list[str]] = {}
    for part in sh("nft", "list", "table", "ip", "filter").split("\tchain ")[1:]:
        name, *lines = part.splitlines()
        found[name] = [line for line in lines if ("KUBE-ROUTER" not in line and "counter" in line) or "numgen" in line]
    return {name: lines for name, lines in found.items() if lines and "KUBE-ROUTER" not in name}


def state(number: int) -> tuple[list[Chain], list[Hook]]:
    """Our chains, of which some change each time, and our hooks."""
    names = ("KUBE-ROUTER-A", "KUBE-ROUTER-B", f"KUBE-ROUTER-{number % 3}")
    chains = [make_chain(ChainKey(Family.IPV4, Table.FILTER, n), (f"-s 10.0.0.{number}/32 -j RETURN",)) for n in names]
    ranks = {"KUBE-ROUTER-A": HookRank.POLICY, "KUBE-ROUTER-B": HookRank.SERVICES}
    hooks = [Hook(HookKey(Family.IPV4, Table.FILTER, "FORWARD", f"-j {n}"), rank) for n, rank in ranks.items()]
    return chains, hooks


def keeps_up(xtables: Xtables) -> None:
    """Bring our state through some generations, each by a process that knows nothing of the one before."""
    before = foreign()
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
    listed = sh("nft", "list", "table", "ip", "filter").splitlines()
    assert [line.split()[-1] for line in listed if "jump KUBE-ROUTER" in line] == ["KUBE-ROUTER-A", "KUBE-ROUTER-B"]
    assert sum(line.strip().startswith("chain KUBE-ROUTER-") for line in listed) == 3
    assert foreign() == before


def test_rules_of_nft_in_the_same_table_hold_nobody_up(xtables: Xtables) -> None:
    """Pain 27, foreign_rule_fidelity: what iptables has no words for stays, and our jumps do not double."""
    native()
    assert "incompatible" in sh("iptables-nft-save")
    keeps_up(xtables)


@pytest.mark.usefixtures("lacking")
def test_a_match_that_the_image_lacks_holds_nobody_up(xtables: Xtables) -> None:
    """Pain 27, foreign_rule_fidelity: an extension of the host's iptables."""
    keeps_up(xtables)
