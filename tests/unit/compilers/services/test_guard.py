"""The guard before service addresses: what it must never refuse, whatever becomes of its sets."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import L4Protocol, ObjectRef
from kuberouter.model.events import Upserted
from kuberouter.model.netfilter import Member
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.packets import HOST, REFUSED, Fate, Node, Packet
from tests.support.world import NODE, ProxyWorld
from tests.unit.compilers.services.test_services import endpoints, service, vips


@pytest.mark.parametrize("lost", ["", "kube-router-svip", "kube-router-svip-prt", "kube-router-local-ips", "all"])
def test_whatever_becomes_of_the_sets_nothing_of_the_node_itself_is_refused(lost: str) -> None:
    settings = ProxySettings(addresses=AddressRules(strict=False), node_ports_everywhere=True)
    world = ProxyWorld(settings)
    other = InterfaceAddress(ip_address("198.51.100.1").packed, 24)
    world.put(Upserted(Interface(ObjectRef("Interface", "", "eth1"), 3, 1500, (other,))))
    own = ("192.0.2.1", "198.51.100.1")
    world.feed(service(type="NodePort", externalIPs=["198.51.100.1"], ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.1.0.1", NODE, "rs")))
    world.sync()
    members = world.table(Member)
    for key in [key for key in members if lost in (key.set, "all")]:
        del members[key]
    node = Node({row: world.table(row) for row in world.drivers}, own)
    for address in own:
        for protocol in (L4Protocol.TCP, L4Protocol.UDP):
            assert node.fate(Packet("203.0.113.9", address, 22, protocol)) == Fate(end=HOST)
        assert node.fate(Packet("203.0.113.9", address, 30080)) == Fate(frozenset({"10.1.0.1"}))
    refused = node.fate(Packet("203.0.113.9", "10.96.0.10", 22)).end == REFUSED
    assert refused == (lost not in ("kube-router-svip", "all"))


def test_the_guard_lets_a_load_balancer_ask_for_health_at_its_own_address() -> None:
    world = ProxyWorld(ProxySettings(addresses=AddressRules(strict=False)))
    raw = json.loads(service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32000))
    raw["spec"]["externalIPs"] = ["198.51.100.7"]
    raw["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
    world.feed(json.dumps(raw).encode())
    world.sync()
    node = Node({row: world.table(row) for row in world.drivers}, ("192.0.2.1",))
    for address, port, protocol, end in (
        ("203.0.113.7", 32000, L4Protocol.TCP, HOST),
        ("203.0.113.7", 32000, L4Protocol.UDP, REFUSED),
        ("203.0.113.7", 32001, L4Protocol.TCP, REFUSED),
        ("198.51.100.7", 32000, L4Protocol.TCP, REFUSED),
        ("10.96.0.10", 32000, L4Protocol.TCP, REFUSED),
    ):
        assert node.fate(Packet("192.0.2.100", address, port, protocol)) == Fate(end=end), (address, port, protocol)
    raw["spec"]["externalTrafficPolicy"] = "Cluster"
    del raw["spec"]["healthCheckNodePort"]
    world.feed(json.dumps(raw).encode())
    world.sync()
    assert not any(key.port == 32000 for key in world.table(Member))


def test_what_kube_proxy_left_on_its_link_opens_no_port_of_the_host() -> None:
    world = ProxyWorld(ProxySettings(addresses=AddressRules(strict=False), node_ports_everywhere=True))
    own, left = (ip_address("192.0.2.1"),), (ip_address("10.96.0.10"), ip_address("203.0.113.7"))
    for index, (name, found) in enumerate((("eth0", own), ("kube-ipvs0", left)), 2):
        addresses = tuple(InterfaceAddress(a.packed, 32) for a in found)
        world.put(Upserted(Interface(ObjectRef("Interface", "", name), index, 1500, addresses)))
    world.feed(service(type="NodePort", externalIPs=["203.0.113.7"], ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.1.0.1", NODE, "rs")))
    world.sync()
    assert vips(world) == {"10.96.0.10", "203.0.113.7"}, "they stay when that link is deleted"
    node = Node({row: world.table(row) for row in world.drivers}, ("192.0.2.1",))
    for address in vips(world):
        assert node.fate(Packet("192.0.2.100", address, 80)) == Fate(frozenset({"10.1.0.1"}))
        for port in (22, 30080):
            assert node.fate(Packet("192.0.2.100", address, port)) == Fate(end=REFUSED)
