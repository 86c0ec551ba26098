"""A dropped packet in words: who it was, by what, and why."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.cluster.dependents import policies
from kuberouter.cluster.derived import namespace_isolation
from kuberouter.compilers.policies import IPTABLES
from kuberouter.compilers.policies.drops import MOST_POLICIES, Drop, Why, explain, names, protected, read_prefix
from kuberouter.compilers.policies.iptables.policies import log, profile_rules
from kuberouter.compilers.policies.names import GUARD_CHAIN, INVALID_CHAIN, UNKNOWN_CHAIN
from kuberouter.compilers.policies.nftables.policies import log as nft_log
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, ObjectRef
from kuberouter.model.drops import LoggedPacket
from kuberouter.model.events import Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings
from tests.support.world import NODE, World, node_bytes

IN, OUT = Direction.INGRESS, Direction.EGRESS
PROFILE = "KUBE-POD-FW-MWWCF5EF5XIQLQL4"
TCP, ICMP = 6, 1
OWN, PEER, FAR, NODE_ADDRESS = "10.244.1.2", "10.244.1.3", "10.244.2.9", "192.0.2.1"


def packed(address: str) -> bytes:
    return ip_address(address).packed


def packet(
    prefix: str, source: str, destination: str, protocol: int = TCP, port: int = 5432, link: str = ""
) -> LoggedPacket:
    return LoggedPacket(prefix, link, packed(source), packed(destination), protocol, port)


class Known:
    """A node with two pods behind links, one pod elsewhere, and policies."""

    def __init__(self) -> None:
        rows = (Sysctl, IpSet, Member, Chain, Hook)
        self.world = World([policies], IPTABLES, FirewallSettings(), rows, derive=[namespace_isolation])
        self.feed({}, kind="Namespace", name="shop", namespace="")
        self.world.feed(node_bytes(address=NODE_ADDRESS))
        self.pod("web", OWN)
        self.pod("peer", PEER)
        self.pod("far", FAR, node="node-2")
        self.pod("hostly", NODE_ADDRESS, host=True)
        for name, address in (("veth1", OWN), ("veth2", PEER)):
            self.world.put(Upserted(PodLink(ObjectRef("PodLink", "", name), (packed(address),), witnessed=True)))
        self.world.sync()

    def feed(self, rest: dict[str, Any], *, kind: str, name: str, namespace: str = "shop", **more: Any) -> None:
        metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **more}
        self.world.feed(json.dumps({"kind": kind, "metadata": metadata, **rest}).encode())

    def pod(self, name: str, address: str, *, node: str = NODE, host: bool = False, phase: str = "Running") -> None:
        spec = {"nodeName": node, "hostNetwork": host, "containers": [{"name": "c"}]}
        self.feed({"spec": spec, "status": {"phase": phase, "podIPs": [{"ip": address}]}}, kind="Pod", name=name)

    def policy(self, name: str, *types: str) -> None:
        self.feed({"spec": {"podSelector": {}, "policyTypes": types}}, kind="NetworkPolicy", name=name)
        self.world.sync()

    def say(self, seen: LoggedPacket) -> str:
        drop = read_prefix(seen.prefix)
        assert drop is not None
        view = self.world.planner.cluster
        return explain(drop, seen, view, names(view, frozenset((seen.source, seen.destination))))


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.mark.parametrize("direction", Direction)
def test_what_the_rules_say_is_understood(direction: Direction) -> None:
    for cut in (False, True):
        name = profile_rules(Family.IPV4, direction, (), cut=cut).key.name
        for line in (log(name, direction), nft_log(name, direction)):
            assert read_prefix(line.split('"')[1]) == Drop(Why.POLICY, direction, name)


def test_the_fixed_chains_are_understood() -> None:
    for made in (log, nft_log):
        assert read_prefix(made(GUARD_CHAIN, OUT).split('"')[1]) == Drop(Why.SOURCE, OUT, GUARD_CHAIN)
    assert read_prefix(INVALID_CHAIN) == Drop(Why.INVALID, None, INVALID_CHAIN)
    assert read_prefix(UNKNOWN_CHAIN) == Drop(Why.UNKNOWN, None, UNKNOWN_CHAIN)


@pytest.mark.parametrize("prefix", ["", "dropped: ", PROFILE, f"{PROFILE} sideways", f"{GUARD_CHAIN} ingress"])
def test_the_rules_of_others_say_nothing(prefix: str) -> None:
    assert read_prefix(prefix) is None


def test_ingress(known: Known) -> None:
    known.policy("deny", "Ingress")
    known.policy("out", "Egress")
    assert known.say(packet(f"{PROFILE} ingress", PEER, OWN)) == (
        "Pod shop/web: ingress from shop/peer (10.244.1.3) to port 5432/TCP was refused: "
        f"no rule of policy shop/deny allows it ({PROFILE})"
    )


def test_egress_to_a_pod_of_another_node(known: Known) -> None:
    known.policy("b", "Egress")
    known.policy("a", "Ingress", "Egress")
    assert known.say(packet(f"{PROFILE} egress", OWN, FAR)) == (
        "Pod shop/web: egress to shop/far (10.244.2.9) port 5432/TCP was refused: "
        f"no rule of policies shop/a, shop/b allows it ({PROFILE})"
    )


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (packet(f"{PROFILE} ingress", NODE_ADDRESS, OWN), "ingress from node node-1 (192.0.2.1) to port 5432/TCP"),
        (packet(f"{PROFILE} ingress", "203.0.113.9", OWN, 17, 53), "ingress from 203.0.113.9 to port 53/UDP"),
        (packet(f"{PROFILE} ingress", PEER, OWN, ICMP, 0), "ingress from shop/peer (10.244.1.3) by ICMP"),
        (packet(f"{PROFILE} egress", OWN, "2001:db8::1", 47, 0), "egress to 2001:db8::1 by IP protocol 47"),
    ],
)
def test_who_and_how(known: Known, seen: LoggedPacket, said: str) -> None:
    known.policy("all", "Ingress", "Egress")
    assert known.say(seen) == f"Pod shop/web: {said} was refused: no rule of policy shop/all allows it ({PROFILE})"


def test_policies_that_deserve_a_word(known: Known) -> None:
    known.policy("good", "Ingress")
    known.policy("odd", "Ingress", "Sideways")
    isolated = {"net.beta.kubernetes.io/network-policy": '{"ingress":{"isolation":"DefaultDeny"}}'}
    known.feed({}, kind="Namespace", name="shop", namespace="", annotations=isolated)
    known.world.sync()
    said = known.say(packet(f"{PROFILE} ingress", PEER, OWN))
    assert "policies shop/good, shop/net.beta.kubernetes.io/network-policy (an annotation of the namespace)" in said
    assert "shop/odd (not understood) allows it" in said


def test_a_line_has_an_end(known: Known) -> None:
    for number in range(MOST_POLICIES + 5):
        known.policy(f"p{number:02}", "Ingress")
    said = known.say(packet(f"{PROFILE} ingress", PEER, OWN))
    assert "shop/p09 and 5 more allows it" in said
    assert "shop/p10" not in said


def test_what_has_changed_since(known: Known) -> None:
    assert "no rule of policies that have changed by now" in known.say(packet(f"{PROFILE} ingress", PEER, OWN))
    known.pod("web", OWN, phase="Succeeded")
    known.world.sync()
    assert known.say(packet(f"{PROFILE} ingress", PEER, OWN)) == (
        "10.244.1.2, which is no pod here now: ingress from shop/peer (10.244.1.3) to port 5432/TCP was refused: "
        f"no rule of the policies that select it allows it ({PROFILE})"
    )


def test_a_borrowed_address(known: Known) -> None:
    prefix = f"{GUARD_CHAIN} egress"
    assert known.say(packet(prefix, FAR, PEER, link="veth1")) == (
        "Pod shop/web: what it sent from shop/far (10.244.2.9) to shop/peer (10.244.1.3) port 5432/TCP was dropped: "
        "that address is not the pod's own"
    )
    assert known.say(packet(prefix, NODE_ADDRESS, PEER, ICMP, 0, link="eth0")) == (
        "Link eth0: what it sent from node node-1 (192.0.2.1) to shop/peer (10.244.1.3) by ICMP was dropped: "
        "nobody behind it has that address"
    )


def test_what_is_told_of_no_end(known: Known) -> None:
    assert known.say(packet(INVALID_CHAIN, PEER, OWN)) == (
        "shop/peer (10.244.1.3): a packet to shop/web (10.244.1.2) port 5432/TCP was dropped: "
        "it belongs to no flow and can begin none"
    )
    assert known.say(packet(UNKNOWN_CHAIN, PEER, "10.244.1.200")) == (
        "shop/peer (10.244.1.3): a packet to 10.244.1.200 port 5432/TCP was dropped: "
        "one of these addresses is of no pod that the API has told of (--netpol-default-deny)"
    )


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (packet(f"{PROFILE} ingress", PEER, OWN), "web"),
        (packet(f"{PROFILE} egress", PEER, OWN), "peer"),
        (packet(f"{PROFILE} ingress", PEER, FAR), ""),
        (packet(f"{GUARD_CHAIN} egress", FAR, PEER, link="veth1"), "web"),
        (packet(f"{GUARD_CHAIN} egress", FAR, PEER, link="eth0"), ""),
        (packet(f"{GUARD_CHAIN} egress", FAR, PEER), ""),
        (packet(INVALID_CHAIN, PEER, OWN), ""),
    ],
)
def test_the_pod_at_whose_door_it_was(known: Known, seen: LoggedPacket, name: str) -> None:
    drop = read_prefix(seen.prefix)
    assert drop is not None
    found = protected(drop, seen, known.world.planner.cluster)
    assert found == (ObjectRef("Pod", "shop", name) if name else None)


def test_of_two_links_with_the_address_of_a_pod_only_its_own_leads_to_it(known: Known) -> None:
    late = PodLink(ObjectRef("PodLink", "", "veth9"), (packed(OWN),), witnessed=True)
    known.world.put(Upserted(late))
    known.world.sync()
    said = known.say(packet(f"{GUARD_CHAIN} egress", OWN, PEER, link="veth9"))
    assert said.startswith("Link veth9: what it sent from shop/web (10.244.1.2) to")
