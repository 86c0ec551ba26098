"""What pods send to addresses outside the cluster: whose address is seen there, and whose rules decide it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.compilers.names import HAIRPIN_SET, NODE_ADDRESS_SET, PLAIN_SET, POD_SUBNET_SET
from kuberouter.compilers.routing import compile_nodesets, compile_plumbing
from kuberouter.compilers.services.nat import snat_rows
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.model.cluster import Node
from kuberouter.model.core import Batch, Family, Fragment, ObjectRef, Owner, Prefix
from kuberouter.model.events import Upserted
from kuberouter.model.netfilter import Chain, Hook, HookRank, IpSet, Member
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import NodeSettings, ProxySettings, RouterSettings
from tests.kernel.drive import converge, owned, sh
from tests.support.lab import netns

pytestmark = pytest.mark.root

NODE = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1"}
POD = {Family.IPV4: "10.244.1.9", Family.IPV6: "fd44:1::9"}
OUTSIDE = {Family.IPV4: "198.51.100.7", Family.IPV6: "2001:db8:9::7"}
PLAIN = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8:a::7"}
"""An address outside the cluster in a network that is not masqueraded."""
OTHER_NODE = {Family.IPV4: "192.0.2.2", Family.IPV6: "2001:db8::2"}
SETS = (POD_SUBNET_SET, NODE_ADDRESS_SET, PLAIN_SET)


def block(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def packed(addresses: dict[Family, str]) -> tuple[bytes, ...]:
    return tuple(ip_address(address).packed for address in addresses.values())


CIDRS = (block("10.244.1.0/24"), block("fd44:1::/64"))
FACTS = NodeFacts("me", packed(NODE), CIDRS, "eth0", 1500)
ME = Node(ObjectRef("Node", "", "me"), internal_addresses=packed(NODE), spec_pod_cidrs=CIDRS)
OTHER = Node(ObjectRef("Node", "", "other"), internal_addresses=packed(OTHER_NODE))
SPARING = RouterSettings(plain_destinations=(block("203.0.113.0/24"), block("2001:db8:a::/48")))


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def xtables(request: pytest.FixtureRequest, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Xtables:
    assert namespace
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    return Xtables(request.param)


@pytest.fixture
def around(namespace: str) -> Iterator[tuple[str, str]]:
    """The node's namespace gets a pod and the world outside as neighbours; names of their namespaces."""
    pod, outside = f"{namespace}-pod", f"{namespace}-out"
    try:
        for name, link, here, there in (
            (pod, "kube-bridge", ("10.244.1.1", "fd44:1::1"), POD.values()),
            (outside, "eth0", NODE.values(), (*OTHER_NODE.values(), "192.0.2.254", "2001:db8::fe")),
        ):
            netns.add(name)
            netns.configure(namespace, f"link add {link} type veth peer name eth0 netns {name}", f"link set {link} up")
            netns.configure(namespace, *(f"address add {on_link(each)} dev {link} nodad" for each in here))
            netns.configure(name, "link set eth0 up", *(f"address add {on_link(a)} dev eth0 nodad" for a in there))
        netns.configure(pod, "route add default via 10.244.1.1", "route add default via fd44:1::1")
        far = (*OUTSIDE.values(), *PLAIN.values())
        netns.configure(
            outside,
            *(f"address add {each} dev lo" for each in far),
            "route add 10.244.1.0/24 via 192.0.2.1",
            "route add fd44:1::/64 via 2001:db8::1",
        )
        netns.configure(namespace, "route add default via 192.0.2.254", "route add default via 2001:db8::fe")
        netns.sysctls(namespace, {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"})
        yield pod, outside
    finally:
        for name in (pod, outside):
            netns.remove(name)


def on_link(address: str) -> str:
    """An address with the length of its network."""
    return f"{address}/{64 if ':' in address else 24}"


def seen(pod: str, outside: str, family: Family, address: str) -> str:
    """The address that the far end sees of a packet that the pod sends it."""
    kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    with netns.inside(outside):
        server = socket.socket(kind, socket.SOCK_DGRAM)
    with netns.inside(pod):
        client = socket.socket(kind, socket.SOCK_DGRAM)
    with server, client:
        server.settimeout(10)
        server.bind((address, 0))
        client.sendto(b"who am I", server.getsockname())
        source = server.recvfrom(64)[1][0]
        assert isinstance(source, str)
        return source


def fragment(settings: RouterSettings) -> Fragment:
    """What the compilers make of the node and of another."""
    cluster = Cluster(NodeSettings("me", tuple(Family)))
    for each in (ME, OTHER):
        cluster.apply(Upserted(each))
    made = [compile_plumbing(Owner("plumbing", ME.ref), cluster, node=FACTS, settings=settings)]
    made += [compile_nodesets(Owner("nodesets", n.ref), cluster, node=FACTS, settings=settings) for n in (ME, OTHER)]
    return Fragment(tuple(row for each in made for row in each.rows))


def apply(xtables: Xtables, settings: RouterSettings) -> HookDriver:
    """Have the kernel hold what these settings mean, as the engine would: sets first, what is in use goes last."""

    def ours(name: str) -> bool:
        return name.removeprefix("inet6:").startswith(SETS)

    rows = fragment(settings).rows
    sets, members = SetDriver(ours), MemberDriver(ours)
    hooks = HookDriver(xtables, tuple(Family), ranks=(HookRank.FORWARD, HookRank.EGRESS))
    wanted = [row for row in rows if isinstance(row, IpSet)]
    assert converge(sets, {**owned(sets), **{row.key: row for row in wanted}}.values()) == {}
    assert converge(members, [row for row in rows if isinstance(row, Member)]) == {}
    assert converge(hooks, [row for row in rows if isinstance(row, Hook)]) == {}
    assert converge(sets, wanted) == {}
    return hooks


def test_pods_speak_from_the_nodes_address_but_to_the_cluster_and_to_networks_that_are_named(
    xtables: Xtables, around: tuple[str, str]
) -> None:
    """pain 24: there was no list of destinations to which pods speak from their own addresses; node_ipset_all."""
    apply(xtables, RouterSettings())
    for family in Family:
        assert seen(*around, family, OUTSIDE[family]) == NODE[family]
        assert seen(*around, family, PLAIN[family]) == NODE[family]
        assert seen(*around, family, OTHER_NODE[family]) == POD[family]
    hooks = apply(xtables, SPARING)
    for family in Family:
        assert seen(*around, family, OUTSIDE[family]) == NODE[family]
        assert seen(*around, family, PLAIN[family]) == POD[family]
        assert seen(*around, family, OTHER_NODE[family]) == POD[family]
    # A process that never wrote them knows them, or a restart would put them in twice.
    fresh = HookDriver(xtables, tuple(Family), ranks=(HookRank.FORWARD, HookRank.EGRESS))
    assert owned(fresh) == owned(hooks)
    apply(xtables, RouterSettings(pod_egress=False))
    for family in Family:
        assert seen(*around, family, OUTSIDE[family]) == POD[family]
    assert PLAIN_SET not in sh("ipset", "list", "-n")


def test_everything_may_be_spared(xtables: Xtables, around: tuple[str, str]) -> None:
    apply(xtables, RouterSettings(plain_destinations=(block("0.0.0.0/0"),)))
    assert seen(*around, Family.IPV4, OUTSIDE[Family.IPV4]) == POD[Family.IPV4]
    assert seen(*around, Family.IPV6, OUTSIDE[Family.IPV6]) == NODE[Family.IPV6]


OLD = """#!/bin/sh
# iptables-restore as it was before 1.6.2, which knew no ports at random for masquerading.
case "$*" in *--verbose*) exit 2;; esac
text=$(cat)
number=$(printf '%s\\n' "$text" | grep -n -m 1 -e --random-fully | cut -d: -f1)
if [ -n "$number" ]; then
    echo "iptables-restore v1.6.1: unknown option \\"--random-fully\\"" >&2
    echo "Error occurred at line: $number" >&2
    exit 2
fi
printf '%s\\n' "$text" | exec TOOL "$@"
"""


def test_tools_that_know_no_random_ports_masquerade_without_them(
    xtables: Xtables, around: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family in Family:
        tool = xtables.tool(family, "restore")
        (tmp_path / tool).write_text(OLD.replace("TOOL", str(shutil.which(tool))))
        (tmp_path / tool).chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    hooks = apply(xtables, RouterSettings())
    wanted = [row for row in fragment(RouterSettings()).rows if isinstance(row, Hook)]
    egress = [row for row in wanted if row.rank == HookRank.EGRESS]
    for family in Family:
        assert seen(*around, family, OUTSIDE[family]) == NODE[family]
    # What lacks something is not what was meant, so it is tried again with every audit, and told of; no rule is twice.
    assert {row.key for row in owned(hooks).values() if not row.in_place} == {row.key for row in egress}
    again = hooks.write(Batch(change=tuple((owned(hooks)[row.key], row) for row in egress)))
    assert not again.failed
    for row in egress:
        assert "'--random-fully' are refused" in again.instead[row.key]
    # Another process, as after a restart: the same again.
    assert apply(xtables, RouterSettings()).read()
    for family in Family:
        left = sh(xtables.tool(family, "save"), "-t", "nat")
        assert left.count("-j MASQUERADE") == 1
        assert "random" not in left
        assert seen(*around, family, OUTSIDE[family]) == NODE[family]
    monkeypatch.setenv("PATH", path)
    apply(xtables, RouterSettings())
    for family in Family:
        assert sh(xtables.tool(family, "save"), "-t", "nat").count("-j MASQUERADE --random-fully") == 1


def test_so_does_the_snat_of_services(xtables: Xtables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = xtables.tool(Family.IPV4, "restore")
    (tmp_path / tool).write_text(OLD.replace("TOOL", str(shutil.which(tool))))
    (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sh("ipset", "create", HAIRPIN_SET, "hash:ip,port,ip")
    (chain,) = (row for row in snat_rows(Family.IPV4, FACTS, ProxySettings()) if isinstance(row, Chain))
    driver = ChainDriver(xtables, (Family.IPV4,), (chain.key.name,))
    outcome = driver.write(Batch(add=(chain,)))
    assert not outcome.failed
    assert set(outcome.instead) == {chain.key}
    left = [line for line in sh(xtables.tool(Family.IPV4, "save"), "-t", "nat").splitlines() if "-j SNAT" in line]
    assert [HAIRPIN_SET in line for line in left] == [True, False], "an endpoint that reaches itself, then all others"
