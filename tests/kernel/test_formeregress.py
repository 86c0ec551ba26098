"""What the Go kube-router leaves of its route controller in builtin chains: removed, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.routing import compile_plumbing
from kuberouter.drivers.formeregress import EGRESS, FormerEgressDriver
from kuberouter.drivers.iptables import HookDriver, Variant, Xtables
from kuberouter.model.core import Family, ObjectRef, Owner
from kuberouter.model.netfilter import FormerEgressKey, Hook, HookRank
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings
from tests.kernel.drive import converge, owned, sh

pytestmark = pytest.mark.root

TOOL = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
FACTS = NodeFacts("me", (b"\xc0\0\x02\1", b"\x20\1\x0d\xb8" + bytes(11) + b"\1"), (), "eth0", 1500)
FORWARD = (
    '-i kube-bridge -m comment --comment "allow outbound traffic from pods" -j ACCEPT',
    '-o kube-bridge -m comment --comment "allow inbound traffic to pods" -j ACCEPT',
    "-o ens5 -m comment --comment "
    '"allow outbound node port traffic on node interface with which node ip is associated" -j ACCEPT',
)
OTHERS_FORWARD = (
    "-i kube-bridge -j ACCEPT",
    '-i cni0 -m comment --comment "allow outbound traffic from pods" -j ACCEPT',
    '-o kube-bridge -m comment --comment "allow inbound traffic to pods" -j DROP',
)


def egress(prefix: str) -> tuple[str, ...]:
    """Its rules of all releases."""
    pods, nodes = f"{prefix}kube-router-pod-subnets", f"{prefix}kube-router-node-ips"
    old = f"-m set --match-set {pods} src -m set ! --match-set {pods} dst"
    new = f"{old} -m set ! --match-set {nodes} dst"
    return tuple(f"{words} -j MASQUERADE{how}" for words in (old, new) for how in ("", " --random-fully"))


def others_egress(prefix: str) -> tuple[str, ...]:
    pods = f"{prefix}kube-router-pod-subnets"
    return (
        f"-m set --match-set {pods} src -j MASQUERADE",
        f"-p udp -m set --match-set {pods} src -m set ! --match-set {pods} dst -j MASQUERADE",
        f"-m set --match-set {pods} src -m set ! --match-set {pods} dst -j ACCEPT",
    )


def rules(xtables: Xtables, family: Family, table: str, chain: str) -> list[str]:
    lines = sh(xtables.tool(family, "save"), "-t", table).splitlines()
    return [line.removeprefix(f"-A {chain} ") for line in lines if line.startswith(f"-A {chain} ")]


@pytest.mark.parametrize("variant", list(Variant), ids=lambda v: v.value)
def test_its_rules_of_any_release_go_and_what_is_ours_or_others_stays(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: Variant
) -> None:
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    xtables = Xtables(variant)
    for family, prefix in ((Family.IPV4, ""), (Family.IPV6, "inet6:")):
        word = "inet" if family is Family.IPV4 else "inet6"
        sh("ipset", "create", f"{prefix}kube-router-pod-subnets", "hash:net", "family", word)
        sh("ipset", "create", f"{prefix}kube-router-node-ips", "hash:ip", "family", word)
        lines = [f"-A FORWARD {words}" for words in (*OTHERS_FORWARD, *FORWARD, FORWARD[0])]
        sh(xtables.tool(family, "restore"), "--noflush", stdin="\n".join(("*filter", *lines, "COMMIT", "")))
        lines = [f"-A POSTROUTING {words}" for words in (*egress(prefix), *others_egress(prefix))]
        sh(xtables.tool(family, "restore"), "--noflush", stdin="\n".join(("*nat", *lines, "COMMIT", "")))
    made = compile_plumbing(
        Owner("plumbing", ObjectRef("Node", "", "me")), ClusterView(), node=FACTS, settings=RouterSettings()
    )
    ours = HookDriver(xtables, tuple(Family), ranks=(HookRank.FORWARD, HookRank.EGRESS))
    hooks = [row for row in made.rows if isinstance(row, Hook)]
    assert converge(ours, hooks) == {}
    former = FormerEgressDriver([lambda: Xtables(Variant.NFT), lambda: Xtables(Variant.LEGACY)], tuple(Family))
    assert set(owned(former)) == {FormerEgressKey(family) for family in Family}
    assert converge(former, []) == {}
    assert owned(former) == {}
    assert owned(ours) == {row.key: row for row in hooks}
    for family, prefix in ((Family.IPV4, ""), (Family.IPV6, "inet6:")):
        left = rules(xtables, family, "filter", "FORWARD")
        assert [line for line in left if "kube-router:" not in line] == list(OTHERS_FORWARD)
        left = rules(xtables, family, "nat", "POSTROUTING")
        assert [line for line in left if "kube-router:" not in line] == list(others_egress(prefix))


def test_a_node_that_never_had_it_has_nothing_to_remove(namespace: str) -> None:
    assert namespace
    former = FormerEgressDriver([lambda: Xtables(Variant.NFT)], tuple(Family))
    assert owned(former) == {}
    assert not EGRESS.fullmatch(egress("")[0].replace("pod-subnets dst", "pod-subnets2 dst"))
