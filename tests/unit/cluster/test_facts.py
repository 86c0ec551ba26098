"""NodeFacts: which addresses and families count, which link is the uplink."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kuberouter.cluster.facts import network_of, node_facts
from kuberouter.cluster.store import Cluster
from kuberouter.model.bgp import NodeBgp, PeerSpec
from kuberouter.model.cluster import Interface, InterfaceAddress, Node, NodeOptions
from kuberouter.model.core import Family, ObjectRef, Prefix
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.settings import NodeSettings

BOTH = NodeSettings("n1", (Family.IPV4, Family.IPV6))


def packed(text: str) -> bytes:
    return ip_address(text).packed


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def link(name: str, index: int, *addresses: str, mtu: int = 1500) -> Interface:
    parts = (a.split("/") for a in addresses)
    return Interface(
        ObjectRef("Interface", "", name), index, mtu, tuple(InterfaceAddress(packed(a), int(n)) for a, n in parts)
    )


NODE = Node(
    ObjectRef("Node", "", "n1"),
    internal_addresses=(packed("fd00::1"), packed("192.0.2.1")),
    external_addresses=(packed("198.51.100.1"),),
    spec_pod_cidrs=(prefix("10.244.1.0/24"), prefix("fd44:1::/64")),
)


@pytest.mark.parametrize(
    ("address", "length", "expected"),
    [
        ("192.0.2.77", 24, "192.0.2.0/24"),
        ("192.0.2.77", 32, "192.0.2.77/32"),
        ("192.0.2.77", 0, "0.0.0.0/0"),
        ("fd00::ffff:1", 64, "fd00::/64"),
    ],
)
def test_network_of_clears_host_bits(address: str, length: int, expected: str) -> None:
    assert network_of(packed(address), length) == prefix(expected)


def test_both_families_and_the_link_of_the_primary_address() -> None:
    links = [link("lo", 1, "127.0.0.1/8"), link("eth0", 2, "192.0.2.1/24"), link("eth1", 3, "fd00::1/64", mtu=9000)]
    facts = node_facts(BOTH, NODE, links)
    assert facts is not None
    assert facts.addresses == (packed("fd00::1"), packed("192.0.2.1"), packed("198.51.100.1"))
    assert (facts.uplink, facts.mtu) == ("eth1", 9000)
    assert facts.subnets == (prefix("192.0.2.0/24"), prefix("fd00::/64"))
    assert facts.families == (Family.IPV4, Family.IPV6)
    assert facts.address(Family.IPV4) == packed("192.0.2.1")


def test_a_disabled_family_is_left_out_everywhere() -> None:
    facts = node_facts(NodeSettings("n1", (Family.IPV4,)), NODE, [])
    assert facts is not None
    assert facts.addresses == (packed("192.0.2.1"), packed("198.51.100.1"))
    assert facts.pod_cidrs == (prefix("10.244.1.0/24"),)
    assert facts.families == facts.enabled == (Family.IPV4,)
    assert facts.other_cidrs == ()
    assert facts.uplink == ""


def test_an_enabled_family_without_an_address_is_not_in_use() -> None:
    node = Node(NODE.ref, internal_addresses=(packed("192.0.2.1"),), spec_pod_cidrs=NODE.spec_pod_cidrs)
    facts = node_facts(BOTH, node, [])
    assert facts is not None
    assert facts.families == (Family.IPV4,)
    assert facts.pod_cidrs == (prefix("10.244.1.0/24"),)
    # Only policy asks: the family is enabled all the same.
    assert facts.enabled == (Family.IPV4, Family.IPV6)
    assert facts.other_cidrs == (prefix("fd44:1::/64"),)


def test_addresses_on_our_own_links_are_not_the_nodes() -> None:
    links = [
        link("eth0", 2, "192.0.2.1/24"),
        link("kube-dummy-if", 3, "10.96.0.1/32"),
        link("kube-bridge", 4, "10.244.1.1/24"),
        link("tun-e443169117a", 5, "192.0.2.1/32"),
    ]
    facts = node_facts(BOTH, NODE, links)
    assert facts is not None
    assert facts.local_addresses == (packed("192.0.2.1"),)


def test_the_annotation_overrides_the_spec_cidrs() -> None:
    node = Node(NODE.ref, NODE.internal_addresses, options=NodeOptions(pod_cidrs=(prefix("10.9.0.0/24"),)))
    facts = node_facts(BOTH, node, [])
    assert facts is not None
    assert facts.pod_cidrs == (prefix("10.9.0.0/24"),)


@pytest.mark.parametrize("node", [None, Node(NODE.ref)])
def test_no_facts_without_a_node_or_an_address(node: Node | None) -> None:
    assert node_facts(BOTH, node, []) is None


def test_the_store_tells_when_facts_change_and_keeps_them_when_the_node_vanishes() -> None:
    cluster = Cluster(BOTH)
    cluster.apply(Upserted(link("eth0", 2, "192.0.2.1/24")))
    assert cluster.node is None
    cluster.apply(Upserted(NODE))
    assert cluster.facts_changed
    cluster.apply(Upserted(link("veth1", 7)))
    assert not cluster.facts_changed
    cluster.apply(Upserted(Node(ObjectRef("Node", "", "n2"), (packed("192.0.2.2"),))))
    assert not cluster.facts_changed
    before = cluster.node
    cluster.apply(Deleted(NODE.ref))
    assert cluster.node == before is not None


def test_addresses_of_services_are_not_the_nodes_whoever_has_put_them_on_a_link() -> None:
    settings = NodeSettings("n1", tuple(Family), (prefix("10.96.0.0/16"), prefix("fd96::/112"), prefix("192.0.2.0/24")))
    links = [
        link("eth0", 2, "192.0.2.1/24", "198.51.100.9/24"),
        link("kube-ipvs0", 3, "10.96.0.10/32", "203.0.113.7/32", "fd96::a/128"),
        link("nodelocaldns", 4, "169.254.20.10/32", "10.96.0.10/32", "fd96::a/128"),
        link("docker0", 5, "172.17.0.1/16"),
        link("dummy0", 6, "198.51.100.100/32"),
    ]
    facts = node_facts(settings, NODE, links)
    assert facts is not None
    own = ("192.0.2.1", "198.51.100.9", "169.254.20.10", "172.17.0.1", "198.51.100.100")
    assert facts.local_addresses == tuple(map(packed, own)), "what the Node object says is the node's in any case"


def test_no_pod_is_news_for_the_node() -> None:
    """The host's end of each pod's link has an IPv6 link-local address: all would be compiled anew for each of them."""
    cluster = Cluster(BOTH)
    cluster.apply(Upserted(link("eth0", 2, "192.0.2.1/24", "fe80::2/64")))
    cluster.apply(Upserted(NODE))
    before = cluster.node
    for number in range(3, 9):
        pod = link(f"veth{number}", number, f"fe80::{number}/64")
        cluster.apply(Upserted(pod))
        assert not cluster.facts_changed
        cluster.apply(Deleted(pod.ref))
        assert not cluster.facts_changed
    assert cluster.node == before


def test_of_addresses_that_were_here_only_those_are_remembered_that_the_node_names() -> None:
    own, listened, passing = "192.0.2.1/24", "203.0.113.7/32", "203.0.113.8/32"
    options = NodeOptions(bgp=NodeBgp(local_addresses=(packed("203.0.113.7"),)))
    node = Node(NODE.ref, (packed("192.0.2.1"),), options=options)
    first = node_facts(BOTH, node, [link("eth0", 2, own, listened, passing)])
    assert first is not None
    gone = node_facts(BOTH, node, [], had=first.bindable)
    assert gone is not None
    assert first.bindable == gone.bindable == (packed("192.0.2.1"), packed("203.0.113.7"))


def test_an_address_from_which_the_node_speaks_to_one_peer_only_is_one_that_it_names() -> None:
    peers = (PeerSpec(packed("192.0.2.254"), 65001, local_address=packed("192.0.2.9")), PeerSpec(packed("fd00::2"), 1))
    node = Node(NODE.ref, (packed("192.0.2.1"),), options=NodeOptions(bgp=NodeBgp(peers=peers)))
    facts = node_facts(BOTH, node, [link("eth0", 2, "192.0.2.1/24", "192.0.2.9/24", "192.0.2.10/24")])
    assert facts is not None
    assert facts.bindable == (packed("192.0.2.1"), packed("192.0.2.9"))
