"""What keeps pods to their own addresses, and which ports of the node policy leaves to the proxy."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kuberouter.cluster.dependents import policies
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.model.cluster import (
    Endpoint,
    EndpointSlice,
    NetworkPolicy,
    Node,
    Pod,
    PodLink,
    Selector,
    Service,
    ServiceOptions,
    ServicePort,
    ServiceType,
)
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Owner, Prefix, Reason
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.netfilter import Chain, Member, Rule
from kuberouter.model.nftables import NftChain, NftElement, packed_link, packed_port
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import AddressRules, FirewallSettings, NodeSettings, ProxySettings

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


def guard_rules(*objects: object, chain: str = "KUBE-ROUTER-POD-GUARD-veth1") -> list[str]:
    rows = COMPILERS["binding"](Owner("binding", POD.ref), cluster(POD, *objects), node=NODE, settings=PLAIN).rows
    return [row.key.text for row in rows if isinstance(row, Rule) and row.key.chain.name == chain]


def link(name: str = "veth1a2b", *, bridged: bool) -> PodLink:
    return PodLink(ObjectRef("PodLink", "", name), POD.addresses, bridged)


BORROWED = "! -s 10.244.1.2/32 {} -m set --match-set KUBE-SRC-CLUSTER src -j KUBE-ROUTER-POD-BORROWED"


def test_a_pod_may_not_borrow_addresses_of_the_cluster() -> None:
    assert guard_rules() == []
    assert guard_rules(link(bridged=True)) == [BORROWED.format("-m physdev --physdev-in veth1a2b")]
    assert guard_rules(link(bridged=False)) == [BORROWED.format("-i veth1a2b")]


def test_a_pod_with_egress_policy_may_use_no_address_but_its_own() -> None:
    assert guard_rules(link(bridged=True), POLICY) == [
        "! -s 10.244.1.2/32 -m physdev --physdev-in veth1a2b -j KUBE-ROUTER-POD-STRANGE",
    ]


@pytest.mark.parametrize(("bridged", "match"), [(True, "-m physdev --physdev-in"), (False, "-i")])
def test_a_link_is_looked_for_by_the_letters_of_its_name(bridged: bool, match: str) -> None:
    found = link(bridged=bridged)
    for chain, goto in (("", "veth"), ("-veth", "veth1")):
        rules = guard_rules(found, chain=f"KUBE-ROUTER-POD-GUARD{chain}")
        assert rules == [f"{match} {goto}+ -g KUBE-ROUTER-POD-GUARD-{goto}"]


@pytest.mark.parametrize("name", ["lo1", "ab c", 'v"x"', "\u00e9th0"])
def test_links_with_short_or_odd_names_are_found_too(name: str) -> None:
    found = link(name, bridged=False)
    chain = f"KUBE-ROUTER-POD-GUARD-{name}" if name == "lo1" else "KUBE-ROUTER-POD-GUARD"
    assert guard_rules(found, chain=chain) == [BORROWED.format(f"-i {name}")]


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_links_with_the_same_address_may_send_under_none_and_the_node_is_told(backend: str) -> None:
    made = cluster(POD, link(bridged=True), link("veth9c8d", bridged=True))
    compile_ = dict(SPELLINGS[backend][0])["binding"]
    fragment = compile_(Owner("binding", POD.ref), made, node=NODE, settings=PLAIN)
    said = str([row.key for row in fragment.rows])
    assert "KUBE-ROUTER-POD-STRANGE" in said or "CONFINED" in said
    assert all(name in said for name in ("veth1a2b", "veth9c8d"))
    assert "! -s" not in said
    assert "POD-OWN" not in said
    (problem,) = fragment.problems
    assert (problem.owner, problem.reason) == (ObjectRef("Node", "", "n1"), Reason.CONFLICT)
    assert all(word in problem.message for word in ("veth1a2b", "veth9c8d", "default/a", "10.244.1.2"))


@pytest.mark.parametrize("gone", [{"node": "n2"}, {"finished": True}, {"host_network": True}])
def test_a_pod_that_has_gone_from_its_link_is_bound_to_it_no_more(gone: dict[str, Any]) -> None:
    known = cluster(POD, link(bridged=True))
    known.apply(Upserted(msgspec.structs.replace(POD, **gone)))
    assert COMPILERS["binding"](Owner("binding", POD.ref), known, node=NODE, settings=PLAIN).rows == ()


@pytest.mark.parametrize("cut", [False, True])
def test_policy_leaves_no_mark_on_what_goes_on_to_a_service(cut: bool) -> None:
    """IPVS knows services of marks, and compares the whole mark."""
    owner = Owner("firewall", ObjectRef("Node", "", "n1"))
    rows = COMPILERS["firewall"](owner, cluster(), node=NODE, settings=FirewallSettings(cut_flows=cut)).rows
    (rules,) = (row.rules for row in rows if isinstance(row, Chain) and row.key.name == "KUBE-ROUTER-INPUT")
    assert rules[-2 if cut else -1] == "-j MARK --set-xmark 0x0/0x30000"


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
    rows = COMPILERS["served"](Owner("served", service.ref), cluster(service), node=NODE, settings=PLAIN).rows
    members = [row.key for row in rows if isinstance(row, Member)]
    assert {(key.protocol, key.port) for key in members} == {(L4Protocol.UDP, 30053)}
    assert {(key.address, key.length) for key in members} == {(bytes(4), 0)}
    assert NODE.families == (Family.IPV4,)


STRICT = FirewallSettings(
    cluster_ranges=(Prefix(bytes((10, 96, 0, 0)), 12),),
    external_ranges=(Prefix(bytes((198, 51, 100, 0)), 24),),
    default_deny=True,
)


SPELLINGS = {
    "iptables": (IPTABLES, "KUBE-ROUTER-INPUT", "-j RETURN", "! -i lo -m addrtype --src-type LOCAL"),
    "nftables": (NFTABLES, "KUBE-ROUTER-INPUT-EGRESS", "accept", 'iifname != "lo" fib saddr type local'),
}


@pytest.mark.parametrize("settings", [PLAIN, STRICT], ids=["plain", "strict"])
@pytest.mark.parametrize("backend", list(SPELLINGS))
def test_nothing_passes_to_a_service_before_its_source_is_looked_at(backend: str, settings: FirewallSettings) -> None:
    """W9, W10: IPVS sends on what INPUT lets pass, and OUTPUT, where it is met next, knows no link any more."""
    compilers, chain, passes, forged = SPELLINGS[backend]
    owner = Owner("firewall", ObjectRef("Node", "", "n1"))
    rows = dict(compilers)["firewall"](owner, cluster(), node=NODE, settings=settings).rows
    (rules,) = (row.rules for row in rows if isinstance(row, Chain | NftChain) and row.key.name == chain)
    if backend == "iptables":
        assert rules[0] == "-j KUBE-ROUTER-POD-GUARD"
    else:
        (hook,) = (
            row.hook for row in rows if isinstance(row, NftChain) and row.key.name.endswith("PREROUTING-SOURCES")
        )
        # Behind conntrack, and before everything that may set marks or translate.
        assert hook is not None
        assert (hook.hook, hook.priority) == ("prerouting", -199)
    general = ("icmp", "established", "-i lo ", '"lo"')
    services = [rule for rule in rules if rule.endswith(passes) and not any(word in rule.lower() for word in general)]
    assert len(services) >= 1 + len(settings.cluster_ranges) + len(settings.external_ranges)
    for rule in services:
        # A local source that comes in by a wire would be taken for the node in OUTPUT.
        before = rules[rules.index(rule) - 1]
        assert forged in before
        assert before.endswith("KUBE-ROUTER-POD-BORROWED")


DIRECT = Service(
    ObjectRef("Service", "default", "web"),
    0.0,
    ServiceType.CLUSTER_IP,
    (bytes((10, 96, 0, 1)),),
    (bytes((10, 255, 0, 1)),),
    ports=(ServicePort("http", L4Protocol.TCP, 80), ServicePort("dns", L4Protocol.UDP, 53)),
    options=ServiceOptions(dsr=True),
)
ENDPOINTS = EndpointSlice(
    ObjectRef("EndpointSlice", "default", "web-1"),
    DIRECT.ref,
    (),
    (Endpoint(POD.addresses[0], 0, "n1"), Endpoint(bytes((10, 244, 2, 9)), 3, "n2")),
)
BESIDE_PROXY = FirewallSettings(
    proxy=ProxySettings(addresses=AddressRules(strict=False), runtime_endpoint="unix:///run/cri.sock")
)


def answers(backend: str, settings: FirewallSettings, *objects: object) -> list[object]:
    """What is let through as an answer of the pod, whatever else is said of its link."""
    made = cluster(POD, link(bridged=True), *objects)
    compile_ = dict(SPELLINGS[backend][0])["binding"]
    rows = compile_(Owner("binding", POD.ref), made, node=NODE, settings=settings).rows
    rules = [row.key.text for row in rows if isinstance(row, Rule) and row.key.rank == 4]
    return [*rules, *(row.key.first for row in rows if isinstance(row, NftElement) and "ANSWERS" in row.key.set.name)]


def test_answers_of_a_pod_that_answers_directly_are_let_through_and_no_more() -> None:
    found = answers("iptables", BESIDE_PROXY, DIRECT, ENDPOINTS)
    assert found == [
        "-s 10.255.0.1/32 -p tcp -m tcp --sport 80 ! --tcp-flags FIN,SYN,RST,ACK SYN "
        "-m physdev --physdev-in veth1a2b -j RETURN",
        "-s 10.255.0.1/32 -p udp -m udp --sport 53 -m physdev --physdev-in veth1a2b -j RETURN",
    ]
    found = answers("nftables", BESIDE_PROXY, DIRECT, ENDPOINTS)
    key = packed_link("veth1a2b") + bytes((10, 255, 0, 1))
    assert found == [key + packed_port(6, 80), key + packed_port(17, 53)]


@pytest.mark.parametrize("backend", list(SPELLINGS))
def test_who_does_not_answer_directly_gets_nothing_let_through(backend: str) -> None:
    assert answers(backend, BESIDE_PROXY, DIRECT) == [], "no endpoint"
    assert answers(backend, PLAIN, DIRECT, ENDPOINTS) == [], "no service proxy here"
    strict = FirewallSettings(proxy=ProxySettings(runtime_endpoint="unix:///run/cri.sock"))
    assert answers(backend, strict, DIRECT, ENDPOINTS) == [], "an address that the Service may not have"
    plain = msgspec.structs.replace(DIRECT, options=ServiceOptions())
    assert answers(backend, BESIDE_PROXY, plain, ENDPOINTS) == []
    older = msgspec.structs.replace(plain, ref=ObjectRef("Service", "default", "older"), created=-1.0)
    assert answers(backend, BESIDE_PROXY, DIRECT, older, ENDPOINTS) == [], "an address of another Service"


def test_the_rules_about_a_pod_follow_where_it_answers_directly() -> None:
    made = Cluster(NodeSettings("n1"), [policies])

    def bound_anew(event: Upserted | Deleted) -> bool:
        return any(POD.ref in keys for compiler, keys in made.apply(event) if compiler == "binding")

    for obj in (Node(ObjectRef("Node", "", "n1"), (bytes((10, 0, 0, 1)),)), POD, link(bridged=True)):
        made.apply(Upserted(obj))
    assert not bound_anew(Upserted(DIRECT))
    assert bound_anew(Upserted(ENDPOINTS))
    ready = msgspec.structs.replace(ENDPOINTS, endpoints=(Endpoint(POD.addresses[0], 3, "n1"),))
    assert not bound_anew(Upserted(ready)), "readiness does not matter"
    assert bound_anew(Upserted(msgspec.structs.replace(DIRECT, external_ips=(bytes((10, 255, 0, 2)),))))
    assert bound_anew(Upserted(Node(ObjectRef("Node", "", "n2"), (bytes((10, 255, 0, 2)),))))
    assert bound_anew(Deleted(ENDPOINTS.ref))
    assert not bound_anew(Deleted(DIRECT.ref))
