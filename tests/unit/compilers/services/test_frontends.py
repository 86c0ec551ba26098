"""Where a Service is served: every kind of frontend, who may have an address, and who may ask there."""

from __future__ import annotations

import json
from collections.abc import Hashable
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.decode.scalars import prefix
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import NODE_KNOWN
from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import Batch, Family, ObjectRef, Outcome, Reason
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.ipvs import Destination, Forward, VirtualService
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member, Table
from kuberouter.model.network import Address
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.packets import DROPPED, ESCAPED, REFUSED, Fate, Node, Packet
from tests.support.world import NODE, ROWS, ProxyWorld
from tests.unit.compilers.services.test_services import answering, endpoints, service, vips, virtual

RULES = AddressRules(True, (prefix("10.96.0.0/12"),), (prefix("198.51.100.0/24"),), (prefix("203.0.113.0/24"),))
SETTINGS = ProxySettings(addresses=RULES)
BOTH = (Family.IPV4, Family.IPV6)
OWN = ("192.0.2.1", "2001:db8::1")


def balanced(*addresses: str, **spec: Any) -> bytes:
    """A Service with load balancer addresses."""
    raw = json.loads(service(type="LoadBalancer", **spec))
    raw["status"] = {"loadBalancer": {"ingress": [{"ip": a} for a in addresses]}}
    return json.dumps(raw).encode()


def dual_node() -> bytes:
    return json.dumps(
        {
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd44:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in OWN]},
        }
    ).encode()


def link(*addresses: str, name: str = "eth0") -> Upserted:
    found = tuple(InterfaceAddress(ip_address(a).packed, 24) for a in addresses)
    return Upserted(Interface(ObjectRef("Interface", "", name), 2, 1500, found))


def told(world: ProxyWorld) -> list[str]:
    return sorted(f"{p.reason.value} {p.field}: {p.message}" for p in world.journal.standing)


def node(world: ProxyWorld) -> Node:
    return Node({row: world.table(row) for row in world.drivers}, OWN)


def test_every_address_of_a_service() -> None:
    world = ProxyWorld(SETTINGS)
    world.feed(balanced("203.0.113.7", externalIPs=["198.51.100.7"], ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.244.1.5", NODE, "rs"), ("10.244.2.5", "other", "rs")))
    world.sync()
    assert set(virtual(world)) == {
        "10.96.0.10/TCP/80",
        "192.0.2.1/TCP/30080",
        "198.51.100.7/TCP/80",
        "203.0.113.7/TCP/80",
    }
    assert answering(world) == answering(world, 30080) == {"10.244.1.5", "10.244.2.5"}
    assert len(world.table(Destination)) == 8
    assert vips(world) == {"10.96.0.10", "198.51.100.7", "203.0.113.7"}


def test_the_annotation_that_leaves_load_balancer_addresses_out() -> None:
    world = ProxyWorld(SETTINGS)
    notes = {"annotations": {"kube-router.io/service.skiplbips": ""}}
    world.feed(balanced("203.0.113.7", metadata=notes))
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80"}
    assert told(world) == []


def test_each_address_that_nobody_may_have_is_told_once_and_takes_nothing_away() -> None:
    world = ProxyWorld(SETTINGS)
    ports = [{"name": str(n), "port": n} for n in range(80, 90)]
    world.feed(balanced("203.0.113.7", "9.9.9.9", externalIPs=["8.8.8.8", "10.96.0.53", "198.51.100.7"], ports=ports))
    world.sync()
    assert {name.split("/")[0] for name in virtual(world)} == {"10.96.0.10", "203.0.113.7", "198.51.100.7"}
    assert told(world) == [
        "Forbidden spec.externalIPs: 10.96.0.53 is not served: it is in the range of cluster IPs "
        "(--service-cluster-ip-range)",
        "Forbidden spec.externalIPs: 8.8.8.8 is not served: it is outside --service-external-ip-range",
        "Forbidden status.loadBalancer.ingress: 9.9.9.9 is not served: it is outside --loadbalancer-ip-range",
    ]


def test_an_address_that_a_service_may_not_have_is_not_lost_to_one_that_may() -> None:
    world = ProxyWorld(SETTINGS)
    old = {"creationTimestamp": "2020-01-01T00:00:00Z"}
    world.feed(service("thief", clusterIP="10.96.0.66", externalIPs=["203.0.113.7", "10.96.0.10"], metadata=old))
    world.feed(endpoints(("10.244.1.66", NODE, "rs"), service="thief"))
    world.feed(balanced("203.0.113.7"))
    world.feed(endpoints(("10.244.1.5", NODE, "rs")))
    world.sync()
    served = {str(ip_address(k.service.address)): str(ip_address(k.address)) for k in world.table(Destination)}
    assert served == {"10.96.0.66": "10.244.1.66", "203.0.113.7": "10.244.1.5", "10.96.0.10": "10.244.1.5"}


def test_without_strictness_a_cluster_ip_still_belongs_to_its_service() -> None:
    world = ProxyWorld(ProxySettings(addresses=AddressRules(strict=False)))
    old = {"creationTimestamp": "2020-01-01T00:00:00Z"}
    world.feed(service("thief", clusterIP="10.96.0.66", externalIPs=["10.96.0.10"], metadata=old))
    world.feed(service())
    world.feed(endpoints(("10.244.1.5", NODE, "rs")))
    world.sync()
    assert answering(world) == {"10.244.1.5"}
    assert told(world) == [
        "Conflict spec.externalIPs: 10.96.0.10 port 80/TCP belongs to Service shop/web; "
        "this Service is not served there"
    ]


def test_two_services_share_an_address_and_leave_in_any_order() -> None:
    for first, second in (("web", "mail"), ("mail", "web")):
        world = ProxyWorld(SETTINGS)
        for name, vip, port in (("web", "10.96.0.10", 80), ("mail", "10.96.0.11", 25)):
            world.feed(service(name, clusterIP=vip, externalIPs=["198.51.100.7"], ports=[{"port": port}]))
        world.sync()
        assert "198.51.100.7" in vips(world)
        world.put(Deleted(ObjectRef("Service", "shop", first)))
        world.sync()
        assert "198.51.100.7" in vips(world)
        world.put(Deleted(ObjectRef("Service", "shop", second)))
        world.sync()
        assert vips(world) == set()


def test_an_address_that_the_node_has_is_not_put_on_the_dummy_link() -> None:
    world = ProxyWorld(ProxySettings(addresses=AddressRules(strict=False)))
    world.put(link("198.51.100.7"))
    world.feed(service(externalIPs=["198.51.100.7", "192.0.2.1"]))
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80", "198.51.100.7/TCP/80", "192.0.2.1/TCP/80"}
    assert vips(world) == {"10.96.0.10"}
    world.put(link())
    world.sync()
    assert vips(world) == {"10.96.0.10", "198.51.100.7"}


@pytest.mark.parametrize("kind", ["InternalIP", "ExternalIP"])
def test_an_address_of_another_node_is_left_to_that_node(kind: str) -> None:
    def other(*addresses: str) -> bytes:
        status = {"addresses": [{"type": kind, "address": a} for a in addresses]}
        return json.dumps({"kind": "Node", "metadata": {"name": "other"}, "status": status}).encode()

    world = ProxyWorld(ProxySettings(addresses=AddressRules(strict=False)))
    ports = [{"port": 80}, {"name": "kubelet", "port": 10250}]
    world.feed(balanced("192.0.2.2", externalIPs=["198.51.100.7", "192.0.2.1"], ports=ports))
    world.feed(endpoints(("10.244.1.5", NODE, "rs"), ports=[{"port": 80}, {"name": "kubelet", "port": 10250}]))
    world.sync()
    assert vips(world) == {"10.96.0.10", "198.51.100.7", "192.0.2.2"}
    before = {row: dict(world.table(row)) for row in ROWS}
    world.feed(other("192.0.2.2", "2001:db8::2"))
    world.sync()
    assert vips(world) == {"10.96.0.10", "198.51.100.7"}
    assert {name.split("/")[0] for name in virtual(world)} == {"10.96.0.10", "198.51.100.7", "192.0.2.1"}
    assert not any(key.address == ip_address("192.0.2.2").packed for key in world.table(Member))
    for own in (False, True):
        assert node(world).fate(Packet("192.0.2.1", "192.0.2.2", 10250, own=own)) == Fate(end=ESCAPED)
    assert told(world) == []
    world.feed(other("192.0.2.3"))
    world.sync()
    assert {row: dict(world.table(row)) for row in ROWS} == before
    world.feed(other("198.51.100.7"))
    world.sync()
    assert vips(world) == {"10.96.0.10", "192.0.2.2"}
    world.put(Deleted(ObjectRef("Node", "", "other")))
    world.sync()
    assert {row: dict(world.table(row)) for row in ROWS} == before


def test_node_ports_of_both_families_at_the_best_address_or_at_all() -> None:
    spec = {"clusterIPs": ["10.96.0.10", "fd96::10"], "ports": [{"port": 80, "nodePort": 30080}]}
    addresses = link("127.0.0.1", "::1", "192.0.2.1", "198.51.100.1", "2001:db8::1", "fd00::1", "fe80::1", "febf::1")
    for settings, expected in (
        (ProxySettings(), {"192.0.2.1", "2001:db8::1"}),
        (ProxySettings(node_ports_everywhere=True), {"192.0.2.1", "198.51.100.1", "2001:db8::1", "fd00::1"}),
    ):
        world = ProxyWorld(settings, BOTH, node=dual_node())
        world.put(addresses)
        world.feed(service(type="NodePort", **spec))
        world.sync()
        found = {str(ip_address(k.address)) for k in world.table(VirtualService) if k.port == 30080}
        assert found == expected
        assert vips(world) == {"10.96.0.10", "fd96::10"}


def test_b25_node_ports_on_all_addresses_stay_within_the_families_of_their_service() -> None:
    """B25: bound to all addresses, a node port of an IPv4 Service was programmed for IPv6 too."""
    world = ProxyWorld(ProxySettings(node_ports_everywhere=True), BOTH, node=dual_node())
    world.put(link("192.0.2.1", "2001:db8::1", "fd00::1"))
    world.feed(service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    world.sync()
    assert {k.family for k in world.table(VirtualService)} == {Family.IPV4}
    only4 = ProxyWorld(ProxySettings(node_ports_everywhere=True), node=dual_node())
    only4.put(link("192.0.2.1", "2001:db8::1"))
    only4.feed(service(type="NodePort", clusterIPs=["10.96.0.10", "fd96::10"], ports=[{"port": 80, "nodePort": 30080}]))
    only4.sync()
    assert {k.family for k in only4.table(VirtualService)} == {Family.IPV4}


def test_bound_node_ports_follow_the_addresses_of_the_node() -> None:
    world = ProxyWorld(ProxySettings(node_ports_everywhere=True))
    world.feed(service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.244.1.5", NODE, "rs")))
    world.put(link("192.0.2.1", "198.51.100.1"))
    world.sync()
    world.put(link("192.0.2.1", "198.51.100.2"))
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80", "192.0.2.1/TCP/30080", "198.51.100.2/TCP/30080"}


def test_the_annotation_local_opens_the_inside_and_closes_the_outside() -> None:
    world = ProxyWorld(SETTINGS)
    notes = {"annotations": {"kube-router.io/service.local": "true"}}
    spec = {"internalTrafficPolicy": "Local", "externalIPs": ["198.51.100.7"]}
    world.feed(service(metadata=notes, **spec))
    world.feed(endpoints(("10.244.2.5", "other", "rs")))
    world.sync()
    assert node(world).fate(Packet("10.244.1.9", "10.96.0.10", 80)) == Fate(frozenset({"10.244.2.5"}))
    assert node(world).fate(Packet("192.0.2.100", "198.51.100.7", 80)) == Fate(end=REFUSED)
    assert node(world).fate(Packet("10.244.1.9", "198.51.100.7", 80)) == Fate(frozenset({"10.244.2.5"}))


def test_with_direct_return_only_clients_outside_are_answered_directly() -> None:
    world = ProxyWorld(ProxySettings(addresses=RULES, runtime_endpoint="unix:///run/cri.sock"))
    notes = {"annotations": {"kube-router.io/service.dsr": "tunnel"}}
    world.feed(service(metadata=notes, externalTrafficPolicy="Local", externalIPs=["198.51.100.7"]))
    world.feed(endpoints(("10.244.2.5", "other", "rs"), ports=[{"port": 80}]))
    world.sync()
    for source, own, fate in (
        ("192.0.2.100", False, Fate(end=REFUSED)),
        ("10.244.1.9", False, Fate(frozenset({"10.244.2.5"}))),
        ("192.0.2.1", True, Fate(frozenset({"10.244.2.5"}))),
    ):
        assert node(world).fate(Packet(source, "198.51.100.7", 80, own=own)) == fate
    assert {row.forward for row in world.table(Destination).values()} == {Forward.MASQUERADE}
    world.feed(endpoints(("10.244.1.5", NODE, "rs"), ports=[{"port": 80}]))
    world.sync()
    assert node(world).fate(Packet("192.0.2.100", "198.51.100.7", 80)) == Fate(frozenset({"10.244.1.5"}))
    assert {row.forward for row in world.table(Destination).values()} == {Forward.MASQUERADE, Forward.TUNNEL}


# --- source ranges ----------------------------------------------------------------------------------------------------


def restricted(*ranges: str, **spec: Any) -> ProxyWorld:
    world = ProxyWorld(SETTINGS)
    ports = [{"port": 80, "nodePort": 30080}]
    world.feed(balanced("203.0.113.7", loadBalancerSourceRanges=list(ranges), ports=ports, **spec))
    world.feed(endpoints(("10.244.1.5", NODE, "rs")))
    world.sync()
    return world


@pytest.mark.parametrize(
    ("ranges", "served"),
    [
        (("198.18.0.0/15",), {"198.18.0.9"}),
        (("198.18.0.9/32", "10.244.0.0/16"), {"198.18.0.9", "10.244.1.9"}),
        (("192.0.2.0/31",), {"192.0.2.1"}),
        (("0.0.0.0/0",), {"198.18.0.9", "10.244.1.9", "192.0.2.1", "198.51.100.9"}),
        (("2001:db8::/32",), set()),
    ],
)
def test_only_listed_clients_reach_a_load_balancer_address(ranges: tuple[str, ...], served: set[str]) -> None:
    world = restricted(*ranges)
    for source in ("198.18.0.9", "10.244.1.9", "192.0.2.1", "198.51.100.9"):
        packet = Packet(source, "203.0.113.7", 80, own=source == "192.0.2.1")
        expected = Fate(frozenset({"10.244.1.5"})) if source in served else Fate(end=DROPPED)
        assert node(world).fate(packet) == expected
        for other in (packet._replace(destination="10.96.0.10"), packet._replace(destination=OWN[0], port=30080)):
            assert node(world).fate(other).endpoints == {"10.244.1.5"}


def test_ranges_cost_nobody_anything_who_has_none_and_leave_nothing_behind() -> None:
    world = ProxyWorld(SETTINGS)
    before = {row: dict(world.table(row)) for row in ROWS}
    world.feed(balanced("203.0.113.7"))
    world.sync()
    assert not any(key.table is Table.RAW for key in (*world.table(Hook), *world.table(Chain)))
    world.feed(balanced("203.0.113.7", loadBalancerSourceRanges=["198.18.0.0/15"]))
    world.sync()
    assert sum(key.table is Table.RAW for key in world.table(Hook)) == 2
    world.feed(balanced("203.0.113.7", loadBalancerSourceRanges=["198.18.0.0/15", "198.20.0.0/16"]))
    assert world.sync() == 1, "one more range is one entry of a set"
    world.put(Deleted(ObjectRef("Service", "shop", "web")))
    world.sync()
    assert {row: dict(world.table(row)) for row in ROWS} == before


def test_an_external_policy_leaves_nothing_behind() -> None:
    world = ProxyWorld(SETTINGS)
    before = {row: dict(world.table(row)) for row in ROWS}
    world.feed(balanced("203.0.113.7", externalTrafficPolicy="Local", ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.244.2.5", "other", "rs")))
    world.sync()
    assert sum(key.table is Table.MANGLE for key in world.table(Hook)) == 4
    assert sum(row.marks for row in world.table(IpSet).values()) == 2
    assert {row.mark > 0 for row in world.table(Member).values() if row.key.port} == {True, False}
    world.feed(balanced("203.0.113.7", externalTrafficPolicy="Cluster"))
    world.put(Deleted(ObjectRef("EndpointSlice", "shop", "web-v4")))
    world.sync()
    assert not any(key.table is Table.MANGLE for key in world.table(Hook))
    world.put(Deleted(ObjectRef("Service", "shop", "web")))
    world.sync()
    assert {row: dict(world.table(row)) for row in ROWS} == before


# --- defects ----------------------------------------------------------------------------------------------------------


class Strict(MemoryDriver[Any]):
    """A kernel that refuses some addresses."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = {ip_address(a).packed for a in refused}

    def write(self, batch: Batch[Any]) -> Outcome:
        super().write(batch)
        failed: dict[Hashable, str] = {key: "No buffer space" for key in self.rows if key.address in self.refused}
        for key in failed:
            del self.rows[key]
        return Outcome(failed)


def test_b03_an_address_that_fails_takes_no_other_service_down() -> None:
    """B3: one address that could not be set ended the pass, and all that came after it was taken for stale."""
    drivers: dict[Any, Any] = {row: MemoryDriver() for row in ROWS}
    drivers[Address] = Strict("198.51.100.1")
    world = ProxyWorld(SETTINGS, drivers=drivers)
    for number in range(5):
        external = [f"198.51.100.{number}"]
        world.feed(service(f"s{number}", clusterIP=f"10.96.0.{number + 1}", externalIPs=external))
        world.feed(endpoints((f"10.244.1.{number + 1}", NODE, "rs"), service=f"s{number}"))
    world.sync()
    everything = {f"10.96.0.{n + 1}" for n in range(5)} | {f"198.51.100.{n}" for n in range(5)}
    for _ in range(2):
        assert vips(world) == everything - {"198.51.100.1"}
        assert len(world.table(VirtualService)) == 10
        assert len(world.table(Destination)) == 10
        world.dataplane.resync(list(world.drivers))
        world.sync()


def test_b04_what_fails_is_seen_in_readiness_and_gone_once_it_is_mended() -> None:
    """B4: a pass always counted as a success, so health never showed an error of IPVS."""
    drivers: dict[Any, Any] = {row: MemoryDriver() for row in ROWS}
    strict = drivers[VirtualService] = Strict("10.96.0.10")
    world = ProxyWorld(drivers=drivers)
    now = [0.0]
    controller = Controller("test", frozenset((NODE_KNOWN,)), tuple(world.drivers))
    inbox = Inbox()
    engine = Engine(inbox, world.planner, world.dataplane, [controller], clock=lambda: now[0])
    world.feed(service())
    world.sync()
    inbox.wake()
    engine.turn()
    (state,) = engine.states
    assert not state.ready
    assert "No buffer space" in state.reason
    assert [p.reason for p in world.journal.standing if p.owner.kind == "Service"] == [Reason.FAILED]
    strict.refused.clear()
    now[0] = 1000.0
    inbox.wake()
    engine.turn()
    assert engine.states[0].ready
    assert world.journal.standing == ()


def test_b28_readiness_that_changes_places_among_equal_endpoints_is_seen() -> None:
    """B28: with the same endpoint in two slices, one change of readiness looked like no change at all."""
    one, two = ("10.1.0.1", NODE), ("10.1.0.2", NODE)
    world = ProxyWorld()
    world.feed(service())
    world.feed(endpoints((*one, "rs"), (*two, ""), name="a"))
    world.feed(endpoints((*one, "rs"), name="b"))
    world.sync()
    assert answering(world) == {"10.1.0.1"}
    world.feed(endpoints((*one, ""), (*two, "rs"), name="a"))
    world.sync()
    assert answering(world) == {"10.1.0.1", "10.1.0.2"}, "one slice still says that it is ready"
    world.feed(endpoints((*one, ""), name="b"))
    assert world.sync() == 1
    assert answering(world) == {"10.1.0.2"}
