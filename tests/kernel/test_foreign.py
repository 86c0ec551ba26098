"""Rules and sets of others stay as they are, byte for byte, however often we write and whoever writes beside us."""

from __future__ import annotations

import itertools
import re
import subprocess
import threading

import pytest

from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.model.core import Family
from kuberouter.model.netfilter import (
    Chain,
    ChainKey,
    Hook,
    HookKey,
    HookRank,
    IpSet,
    IpSetKey,
    Member,
    MemberKey,
    SetType,
    Table,
    make_chain,
)
from tests.kernel.drive import converge, sh

pytestmark = pytest.mark.root

SYNCS = 100
FOREIGN = """*filter
:FORWARD ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:DOCKER-USER - [0:0]
:OPS - [0:0]
-A KUBE-FIREWALL -m comment --comment "block COMMIT; and \\"quotes\\"" -m mark --mark 0x8000/0x8000 -j DROP
-A FORWARD -m comment --comment "kube-routers are not kube-router:" -j KUBE-FIREWALL
-A FORWARD -s 203.0.113.0/24 -m statistic --mode random --probability 0.5 -j DOCKER-USER
-A DOCKER-USER -p tcp -m multiport --dports 1:3,5 -m limit --limit 3/min -j LOG --log-prefix "kube-router: "
-A DOCKER-USER -j RETURN
COMMIT
"""


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def xtables(
    request: pytest.FixtureRequest, namespace: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> Xtables:
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    return Xtables(request.param)


def foreign(xtables: Xtables) -> list[str]:
    """Lines of the filter table that are not ours, in order, with their counters."""
    lines = sh(xtables.tool(Family.IPV4, "save"), "-c", "-t", "filter").splitlines()
    return [line for line in lines if not line.startswith("#") and "KUBE-ROUTER" not in line]


def generation(number: int) -> tuple[list[Chain], list[Hook]]:
    """Our chains and hooks, different in each generation."""
    names = [f"KUBE-ROUTER-{number % 7}", f"KUBE-ROUTER-{(number * 3) % 5 + 10}"]
    chains = [
        make_chain(
            ChainKey(Family.IPV4, Table.FILTER, name), tuple(f"-s 10.0.{number}.{i}/32 -j RETURN" for i in "123")
        )
        for name in names
    ]
    hooks = [Hook(HookKey(Family.IPV4, Table.FILTER, "FORWARD", f"-j {name}"), HookRank.POLICY) for name in names]
    return chains, hooks


def sync(chains: ChainDriver, hooks: HookDriver, number: int) -> None:
    """One pass in the engine's order: chains, hooks, and what is gone in reverse."""
    wanted, placed = generation(number)
    before = [row for row in chains.read() if chains.owns(row)]
    kept = [row for row in before if row.key not in {chain.key for chain in wanted}]
    assert converge(chains, [*wanted, *kept]) == {}
    assert converge(hooks, placed) == {}
    assert converge(chains, wanted) == {}


def test_rules_of_others_are_the_same_bytes_after_many_syncs(xtables: Xtables) -> None:
    """W21, pain 27, foreign_rule_fidelity, idempotent_100: counters of others, too, and none of ours pile up."""
    restore = xtables.tool(Family.IPV4, "restore")
    sh(restore, "--noflush", stdin=FOREIGN)
    sh(xtables.tool(Family.IPV4, "restore").removesuffix("-restore"), "-A", "OPS", "-c", "5", "500", "-s", "192.0.2.7")
    before = foreign(xtables)
    assert any("[5:500]" in line for line in before)
    assert sum(line.startswith("[") for line in before) == 6
    drivers = ChainDriver(xtables, (Family.IPV4,), ("KUBE-ROUTER-",)), HookDriver(xtables, (Family.IPV4,))
    for number in range(SYNCS):
        sync(*drivers, number)
    assert foreign(xtables) == before
    after = sh(xtables.tool(Family.IPV4, "save"), "-t", "filter")
    assert after.count("-j KUBE-ROUTER-") == 2
    assert after.count("\n:KUBE-ROUTER-") == 2
    assert after.count("\n-A KUBE-ROUTER-") == 6


def test_somebody_who_writes_at_the_same_moment_loses_nothing(xtables: Xtables) -> None:
    """W21, pain 27, foreign_rules_race."""
    tool = xtables.tool(Family.IPV4, "restore").removesuffix("-restore")
    sh(tool, "-N", "OPS")
    sh(tool, "-A", "FORWARD", "-j", "OPS")
    stop, written = threading.Event(), itertools.count()
    errors: list[str] = []

    def write() -> None:
        for number in written:
            rule = ("-s", f"198.51.{number >> 8}.{number & 255}", "-j", "DROP")
            for chain in ("OPS", "FORWARD"):
                done = subprocess.run(
                    (tool, "-w", "5", "-A", chain, *rule), capture_output=True, text=True, check=False
                )
                if done.returncode:
                    errors.append(done.stderr)
            # Without any pause iptables-nft-save never sees two equal generations, and never ends.
            if stop.wait(0.01):
                return

    thread = threading.Thread(target=write)
    thread.start()
    drivers = ChainDriver(xtables, (Family.IPV4,), ("KUBE-ROUTER-",)), HookDriver(xtables, (Family.IPV4,))
    try:
        for number in range(SYNCS // 3):
            sync(*drivers, number)
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert errors == []
    expected = [f"198.51.{n >> 8}.{n & 255}/32" for n in range(next(written))]
    assert len(expected) > 20
    lines = foreign(xtables)
    for chain in ("OPS", "FORWARD"):
        found = [m[1] for line in lines if (m := re.search(rf"-A {chain} -s (198\.51\.\S+) -j DROP", line))]
        assert found == expected


def test_sets_of_others_stay_as_they_are(namespace: str) -> None:
    """Pain 30, foreign_rules_race."""
    del namespace
    theirs = """create OPS hash:net,iface family inet hashsize 64 maxelem 9 comment counters
add OPS 192.0.2.0/24,eth0 packets 7 bytes 70 comment "COMMIT x"
create KUBE-SRCH bitmap:port range 1-9
add KUBE-SRCH 3
"""
    sh("ipset", "restore", stdin=theirs)
    before = sh("ipset", "save")

    def ours(name: str) -> bool:
        return name.startswith("KUBE-SRC-")

    for number in range(SYNCS):
        sets = [IpSet(IpSetKey(f"KUBE-SRC-{n}"), SetType.HASH_IP, Family.IPV4) for n in (number % 7, 50 + number % 2)]
        assert converge(SetDriver(ours), sets) == {}
        members = [Member(MemberKey(row.key.name, bytes((10, 0, number, n)), 32)) for row in sets for n in (1, 2)]
        assert converge(MemberDriver(ours), members) == {}
    lines = [line for line in sh("ipset", "save").splitlines() if "KUBE-SRC-" not in line]
    assert lines == before.splitlines()
    assert len(before.splitlines()) == 4
