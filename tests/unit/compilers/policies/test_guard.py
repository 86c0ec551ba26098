"""What keeps pods to their own addresses, and which ports of the node policy leaves to the proxy."""

from __future__ import annotations

from kuberouter.cluster.store import Cluster
from kuberouter.compilers.policies import IPTABLES
from kuberouter.model.cluster import NetworkPolicy, Node, Pod, PodLink, Selector, Service, ServicePort, ServiceType
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Owner, Prefix
from kuberouter.model.events import Upserted
from kuberouter.model.netfilter import Member, Rule
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import FirewallSettings, NodeSettings

NODE = NodeFacts("n1", (bytes((10, 0, 0, 1)),))
POD = Pod(ObjectRef("Pod", "default", "a"), "n1", addresses=(bytes((10, 244, 1, 2)),))
POLICY = NetworkPolicy(ObjectRef("NetworkPolicy", "default", "p"), 0.0, Selector(), egress=())
PLAIN = FirewallSettings()
COMPILERS = dict(IPTABLES)


def cluster(*objects: object) -> Cluster:
    made = Cluster(NodeSettings("n1"))
    for obj in objects:
        made.apply(Upserted(obj))  # type: ignore[arg-type]  # all are cluster objects
    return made


def guard_rules(*objects: object) -> list[str]:
    rows = COMPILERS["binding"](Owner("binding", POD.ref), cluster(POD, *objects), node=NODE, settings=PLAIN).rows
    return [row.key.text for row in rows if isinstance(row, Rule) and row.key.chain.name == "KUBE-ROUTER-POD-GUARD"]


def link(*, bridged: bool) -> PodLink:
    return PodLink(ObjectRef("PodLink", "", "veth1"), POD.addresses, bridged)


def test_a_pod_may_not_borrow_addresses_of_the_cluster() -> None:
    assert guard_rules() == []
    assert guard_rules(link(bridged=True)) == [
        "! -s 10.244.1.2/32 -m physdev --physdev-in veth1 -m set --match-set KUBE-SRC-CLUSTER src -j DROP"
    ]
    assert guard_rules(link(bridged=False)) == [
        "! -s 10.244.1.2/32 -i veth1 -m set --match-set KUBE-SRC-CLUSTER src -j DROP"
    ]


def test_a_pod_with_egress_policy_may_use_no_address_but_its_own() -> None:
    assert guard_rules(link(bridged=True), POLICY) == ["! -s 10.244.1.2/32 -m physdev --physdev-in veth1 -j DROP"]


def test_the_addresses_of_the_cluster_are_those_of_its_nodes_and_their_pods() -> None:
    node = Node(ObjectRef("Node", "", "n2"), (bytes((10, 0, 0, 2)),), (), (Prefix(bytes((10, 244, 2, 0)), 24),))
    rows = COMPILERS["cluster-addresses"](
        Owner("cluster-addresses", node.ref), cluster(node), node=NODE, settings=PLAIN
    ).rows
    found = {(row.key.address, row.key.length) for row in rows if isinstance(row, Member)}
    assert found == {(bytes((10, 0, 0, 2)), 32), (bytes((10, 244, 2, 0)), 24)}


def test_only_node_ports_of_services_are_left_to_the_proxy() -> None:
    ports = tuple(ServicePort("", L4Protocol.UDP, 53, number) for number in (0, 30053, 20000))
    service = Service(ObjectRef("Service", "default", "dns"), 0.0, ServiceType.NODE_PORT, ports=ports)
    rows = COMPILERS["node-ports"](Owner("node-ports", service.ref), cluster(service), node=NODE, settings=PLAIN).rows
    members = [row.key for row in rows if isinstance(row, Member)]
    assert {(key.protocol, key.port) for key in members} == {(L4Protocol.UDP, 30053)}
    assert {(key.address, key.length) for key in members} == {(bytes(4), 1), (b"\x80\0\0\0", 1)}
    assert NODE.families == (Family.IPV4,)
