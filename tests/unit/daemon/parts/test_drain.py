"""Which addresses a virtual service of UDP answers at, and what asking for the flag brings into a composition."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from kuberouter.daemon.parts.drain import drain, in_question, places, services
from kuberouter.daemon.parts.part import Part
from kuberouter.decode import DECODERS
from kuberouter.model.cluster import MarkedPlace, MarkUse, Node
from kuberouter.model.core import Family, L4Protocol, ObjectRef
from kuberouter.model.events import Upserted
from kuberouter.model.ipvs import Destination, VirtualServiceKey, marked_service
from kuberouter.model.settings import ProxySettings
from tests.support.world import NODE, ProxyWorld

OWN = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1"}
OUTER, UDP = "198.51.100.7", L4Protocol.UDP


def key(address: str, port: int, protocol: L4Protocol = UDP) -> VirtualServiceKey:
    packed = ip_address(address).packed
    return VirtualServiceKey(Family.IPV4 if len(packed) == 4 else Family.IPV6, protocol, packed, port)


@pytest.fixture
def world() -> ProxyWorld:
    """A Service that clients of the cluster find by mark, at an external address and at node ports, in UDP and TCP."""
    world = ProxyWorld(families=tuple(Family))
    node = Node(ObjectRef("Node", "", NODE), internal_addresses=tuple(ip_address(a).packed for a in OWN.values()))
    world.put(Upserted(node))
    service = {
        "kind": "Service",
        "metadata": {"name": "dns", "namespace": "shop"},
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10", "fd96::10"],
            "externalIPs": [OUTER],
            "externalTrafficPolicy": "Local",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "nodePort": 30053},
            ],
        },
    }
    obj, problems = DECODERS["Service"](json.dumps(service).encode())
    assert obj is not None
    assert not problems
    world.put(Upserted(obj))
    world.sync()
    return world


def mark(world: ProxyWorld, address: bytes, port: int, protocol: L4Protocol = UDP) -> int:
    found = world.planner.cluster.marks.mark(MarkedPlace(address, protocol, port, MarkUse.INSIDE))
    assert found
    return found


def test_by_address_it_is_that_address(world: ProxyWorld) -> None:
    assert list(places(key("10.96.0.10", 53), world.planner.cluster)) == [key("10.96.0.10", 53)]


def test_by_mark_it_is_where_clients_of_the_cluster_get_the_mark(world: ProxyWorld) -> None:
    view = world.planner.cluster
    outer = mark(world, ip_address(OUTER).packed, 53)
    assert list(places(marked_service(Family.IPV4, outer), view)) == [key(OUTER, 53)]
    node_port = mark(world, bytes(4), 30053)
    for family, address in OWN.items():
        assert list(places(marked_service(family, node_port), view)) == [key(address, 30053)]
    tcp = mark(world, bytes(4), 30053, L4Protocol.TCP)
    assert list(places(marked_service(Family.IPV4, tcp), view)) == []
    assert list(places(marked_service(Family.IPV4, 16383), view)) == [], "a mark that nobody has"


def test_an_endpoint_of_either_service_at_an_address_answers_there(world: ProxyWorld) -> None:
    view = world.planner.cluster
    outer, node_port = mark(world, ip_address(OUTER).packed, 53), mark(world, bytes(4), 30053)
    assert list(services(key(OUTER, 53), view)) == [key(OUTER, 53), marked_service(Family.IPV4, outer)]
    for family, address in OWN.items():
        place = key(address, 30053)
        assert list(services(place, view)) == [place, marked_service(family, node_port)]
    assert list(services(key("10.96.0.10", 53), view)) == [key("10.96.0.10", 53)]


def test_of_what_a_mark_leads_to_only_the_addresses_in_question_are_looked_at(world: ProxyWorld) -> None:
    view = world.planner.cluster
    outer, node_port = mark(world, ip_address(OUTER).packed, 53), mark(world, bytes(4), 30053)
    pod, far = (bytes((10, 244, 1, 2)), 5353), (bytes((10, 244, 2, 2)), 5353)
    by_outer, by_port = marked_service(Family.IPV4, outer), marked_service(Family.IPV4, node_port)
    serving = {by_outer: [pod, far], by_port: [pod, far], key(OUTER, 53): [pod]}
    everybody = frozenset((pod, far))
    there = {ip_address(OUTER).packed: None}
    assert list(in_question(by_outer, serving, (), view)) == [(key(OUTER, 53), everybody)]
    assert list(in_question(by_outer, serving, there, view)) == [(key(OUTER, 53), everybody)]
    assert list(in_question(by_port, serving, there, view)) == []
    assert list(in_question(by_port, serving, (), view)) == [(key(OWN[Family.IPV4], 30053), everybody)]


def test_pods_are_watched_only_for_their_end_and_nothing_waits_for_them() -> None:
    part = Part("service-proxy")
    part.watched = ("services",)
    part.needs = frozenset(part.watched)
    drain(part, ProxySettings(graceful=True))
    assert part.watched == ("services", "pods")
    assert part.needs == {"services"}
    assert set(part.brief) == {"pods"}
    assert list(part.inherit) == [Destination]
    assert part.removals_await == {Destination: "drains"}
    assert [source.name for source in part.sources] == ["connections"]
    shown = {series.name: series for show in part.shows for series in show()}
    assert [sample.value for sample in shown["kube_router_draining_destinations"].samples] == [0]
