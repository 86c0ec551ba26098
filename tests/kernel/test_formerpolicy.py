"""What leads into the firewall of the Go kube-router: removed, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuberouter.drivers.former import survey
from kuberouter.drivers.formerpolicy import FormerPolicyDriver
from kuberouter.drivers.iptables import ChainDriver, Variant, Xtables
from kuberouter.model.core import Family
from kuberouter.model.netfilter import FormerPolicyKey
from tests.kernel.drive import converge, owned, sh
from tests.support import original

pytestmark = pytest.mark.root

PREFIXES = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
NEIGHBOURS = (
    '-A INPUT -m comment --comment "kube-router:0123456789:first:10" -j KUBE-ROUTER-INPUT',
    '-A INPUT -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV"',
    "-A FORWARD -s 192.0.2.1/32 -j KUBE-ROUTER-FORWARD",
    "-A FORWARD -j KUBE-ROUTER-INPUT",
    "-A OUTPUT -d 192.0.2.9/32 -j DROP",
)
"""Ours, and what others may have; none of it is the original's."""
POD = {Family.IPV4: "10.244.1.5", Family.IPV6: "fd44::5"}


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def xtables(request: pytest.FixtureRequest, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Xtables:
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    found = Xtables(request.param)
    for family in Family:
        sh("ipset", "restore", stdin=original.sets(family))
        sh(found.tool(family, "restore"), "--noflush", stdin=original.rules(family, POD[family]))
    return found


def driver() -> FormerPolicyDriver:
    return FormerPolicyDriver([lambda: Xtables(Variant.NFT), lambda: Xtables(Variant.LEGACY)], tuple(Family))


def neighbours(family: Family) -> list[str]:
    return [line for line in NEIGHBOURS if "192.0.2" not in line or family is Family.IPV4]


def builtin(xtables: Xtables, family: Family) -> list[str]:
    saved = sh(xtables.tool(family, "save"), "-t", "filter").splitlines()
    return [line for line in saved if line.startswith(("-A INPUT", "-A FORWARD", "-A OUTPUT"))]


def test_jumps_and_drafts_go_and_what_is_ours_or_others_stays(xtables: Xtables) -> None:
    """Which variant is in use makes no difference."""
    for family in Family:
        text = "\n".join(["*filter", *neighbours(family), "COMMIT", ""])
        sh(xtables.tool(family, "restore"), "--noflush", stdin=text)
    sh("ipset", "create", "TMP-others", "hash:ip")
    former = driver()
    assert set(owned(former)) == {FormerPolicyKey(family) for family in Family}
    assert converge(former, []) == {}
    assert owned(driver()) == {}
    for family in Family:
        assert sorted(builtin(xtables, family)) == sorted(neighbours(family))
    left = sh("ipset", "list", "-n").split()
    assert "TMP-others" in left
    assert original.DRAFT not in left


def test_each_pod_had_a_jump_of_its_own_once(xtables: Xtables) -> None:
    text = f"*filter\n-A FORWARD -d 10.0.0.1 -j {original.POD}\nCOMMIT\n"
    sh(xtables.tool(Family.IPV4, "restore"), "--noflush", stdin=text)
    assert converge(driver(), []) == {}
    assert builtin(xtables, Family.IPV4) == []


def test_its_chains_can_go_then(xtables: Xtables) -> None:
    chains = ChainDriver(xtables, tuple(Family), PREFIXES)
    assert converge(driver(), []) == {}
    assert converge(chains, []) == {}
    for family in Family:
        assert "KUBE-" not in sh(xtables.tool(family, "save"), "-t", "filter")


def test_chains_that_cannot_go_refuse_nobody(xtables: Xtables) -> None:
    """Where the jumps stay, because they cannot be read for example, nothing is judged behind them."""
    failed = converge(ChainDriver(xtables, tuple(Family), PREFIXES), [])
    assert len(failed) == len(original.IDS) * len(Family)
    for family in Family:
        lines = sh(xtables.tool(family, "save"), "-t", "filter").splitlines()
        assert sorted(line for line in lines if line.startswith("-A ")) == sorted(original.jumps())
        assert sum(line.startswith(":KUBE-") for line in lines) == len(original.IDS)


def test_they_are_nobody_elses_rules(xtables: Xtables) -> None:
    """Else the node would be told that somebody else works in the other variant."""
    assert survey(xtables, tuple(Family), PREFIXES).others == ()
