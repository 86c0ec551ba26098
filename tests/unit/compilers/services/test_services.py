"""Services to IPVS, rule by rule, through the whole pure path: bytes in, rows out."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.model.core import Family, L4Protocol, ObjectRef
from kuberouter.model.events import Accepted, Deleted
from kuberouter.model.ipvs import PERSISTENT, Destination, VirtualService
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member
from kuberouter.model.network import Address
from kuberouter.model.settings import ProxySettings
from tests.support.world import NODE, ProxyWorld


def service(name: str = "web", **spec: Any) -> bytes:
    metadata: dict[str, Any] = {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}
    metadata |= spec.pop("metadata", {})
    given = {"clusterIP": "10.96.0.10", "ports": [{"port": 80, "protocol": "TCP"}], **spec}
    return json.dumps({"kind": "Service", "metadata": metadata, "spec": given}).encode()


def endpoints(*items: tuple[str, str, str], service: str = "web", name: str = "", ports: Any = None) -> bytes:
    """A slice from (address, node, conditions); conditions are letters of r, s, t."""
    v6 = any(":" in a for a, _, _ in items)
    return json.dumps(
        {
            "kind": "EndpointSlice",
            "metadata": {
                "name": name or f"{service}-{'v6' if v6 else 'v4'}",
                "namespace": "shop",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv6" if v6 else "IPv4",
            "ports": ports or [{"port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [a],
                    "nodeName": node,
                    "conditions": {"ready": "r" in c, "serving": "s" in c, "terminating": "t" in c},
                }
                for a, node, c in items
            ],
        }
    ).encode()


def virtual(world: ProxyWorld) -> dict[str, VirtualService]:
    return {
        f"{ip_address(k.address)}/{k.protocol.name}/{k.port}": row for k, row in world.table(VirtualService).items()
    }


def answering(world: ProxyWorld, port: int = 80) -> set[str]:
    return {str(ip_address(k.address)) for k in world.table(Destination) if k.service.port == port}


def vips(world: ProxyWorld) -> set[str]:
    return {str(ip_address(k.address)) for k in world.table(Address)}


def test_a_cluster_ip_is_served_and_brought_to_the_node() -> None:
    world = ProxyWorld()
    world.feed(service())
    world.feed(endpoints(("10.244.1.5", NODE, "rs"), ("10.244.2.5", "other", "rs")))
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80"}
    assert answering(world) == {"10.244.1.5", "10.244.2.5"}
    assert {k.port for k in world.table(Destination)} == {8080}
    assert vips(world) == {"10.96.0.10"}
    (address,) = world.table(Address).values()
    assert address.source == ip_address("192.0.2.1").packed


def test_a_service_without_endpoints_stays_and_so_refuses() -> None:
    world = ProxyWorld()
    world.feed(service())
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80"}
    assert world.table(Destination) == {}


def test_node_ports_are_served_at_the_nodes_address_and_not_on_the_dummy_link() -> None:
    world = ProxyWorld()
    world.feed(service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.244.1.5", NODE, "rs")))
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80", "192.0.2.1/TCP/30080"}
    assert answering(world, 30080) == {"10.244.1.5"}
    assert vips(world) == {"10.96.0.10"}


def test_a_slice_whose_label_goes_leaves_its_service() -> None:
    world = ProxyWorld()
    world.feed(service())
    mine = endpoints(("10.244.1.5", NODE, "rs"))
    world.feed(mine)
    world.sync()
    assert answering(world) == {"10.244.1.5"}
    world.feed(mine.replace(b"kubernetes.io/service-name", b"app"))
    world.sync()
    assert answering(world) == set()
    assert [p.field for p in world.journal.standing] == ["metadata.labels"]
    world.feed(mine)
    world.put(Accepted(ObjectRef("EndpointSlice", "shop", "web-v4")))
    world.sync()
    assert answering(world) == {"10.244.1.5"}
    assert world.journal.standing == ()


@pytest.mark.parametrize("protocol", list(L4Protocol))
def test_every_protocol(protocol: L4Protocol) -> None:
    world = ProxyWorld()
    world.feed(service(ports=[{"port": 53, "protocol": protocol.name}]))
    world.feed(endpoints(("10.244.1.5", NODE, "rs"), ports=[{"port": 5353, "protocol": protocol.name}]))
    world.sync()
    assert set(virtual(world)) == {f"10.96.0.10/{protocol.name}/53"}
    assert len(world.table(Destination)) == 1


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([("10.1.0.1", NODE, "rs"), ("10.1.0.2", NODE, "st")], {"10.1.0.1"}),
        ([("10.1.0.1", NODE, "st"), ("10.1.0.2", NODE, "t")], {"10.1.0.1"}),
        ([("10.1.0.1", NODE, "s"), ("10.1.0.2", NODE, "")], set()),
        ([("10.1.0.1", NODE, "")], set()),
    ],
)
def test_b16_ready_endpoints_first_and_serving_ones_only_when_none_is_left(
    items: list[tuple[str, str, str]], expected: set[str]
) -> None:
    """B16: endpoints that terminate got as much as those that are ready."""
    world = ProxyWorld()
    world.feed(service())
    world.feed(endpoints(*items))
    world.sync()
    assert answering(world) == expected


def test_readiness_is_judged_over_all_slices_and_a_flip_reaches_the_others() -> None:
    world = ProxyWorld()
    world.feed(service())
    world.feed(endpoints(("10.1.0.1", NODE, "st"), name="a"))
    world.feed(endpoints(("10.1.0.2", NODE, "rs"), name="b"))
    world.sync()
    assert answering(world) == {"10.1.0.2"}
    world.feed(endpoints(("10.1.0.2", NODE, "st"), name="b"))
    world.sync()
    assert answering(world) == {"10.1.0.1", "10.1.0.2"}
    world.put(Deleted(ObjectRef("EndpointSlice", "shop", "b")))
    world.sync()
    assert answering(world) == {"10.1.0.1"}


def test_one_endpoint_of_a_big_service_costs_two_writes() -> None:
    world = ProxyWorld()
    world.feed(service())
    for part in range(50):
        world.feed(endpoints(*((f"10.{part}.0.{n}", NODE, "rs") for n in range(1, 101)), name=f"p{part}"))
    world.sync()
    world.feed(endpoints(*((f"10.7.0.{n}", NODE, "rs") for n in range(2, 102)), name="p7"))
    assert world.sync() == 2


def test_publish_not_ready_addresses() -> None:
    world = ProxyWorld()
    world.feed(service(publishNotReadyAddresses=True))
    world.feed(endpoints(("10.1.0.1", NODE, ""), ("10.1.0.2", NODE, "rs")))
    world.sync()
    assert answering(world) == {"10.1.0.1", "10.1.0.2"}


def test_b17_internal_local_refuses_without_a_local_endpoint() -> None:
    """B17: the service was taken away, and its packets went wherever the address is routed."""
    world = ProxyWorld()
    world.feed(service(internalTrafficPolicy="Local"))
    world.feed(endpoints(("10.1.0.1", "other", "rs")))
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80"}
    assert answering(world) == set()
    world.feed(endpoints(("10.1.0.1", "other", "rs"), ("10.1.0.2", NODE, "rs")))
    world.sync()
    assert answering(world) == {"10.1.0.2"}


def test_external_local_governs_node_ports_only() -> None:
    world = ProxyWorld()
    world.feed(service(type="NodePort", externalTrafficPolicy="Local", ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.1.0.1", "other", "rs"), ("10.1.0.2", NODE, "rs")))
    world.sync()
    assert answering(world) == {"10.1.0.1", "10.1.0.2"}
    assert answering(world, 30080) == {"10.1.0.2"}


def test_session_affinity_and_scheduler() -> None:
    world = ProxyWorld()
    config = {"clientIP": {"timeoutSeconds": 99}}
    notes = {"annotations": {"kube-router.io/service.scheduler": "sh"}}
    world.feed(service(sessionAffinity="ClientIP", sessionAffinityConfig=config, metadata=notes))
    world.sync()
    (row,) = virtual(world).values()
    assert (row.flags, row.timeout, row.scheduler) == (PERSISTENT, 99, "sh")


def test_an_unknown_scheduler_is_a_problem_and_rr() -> None:
    world = ProxyWorld()
    world.feed(service(metadata={"annotations": {"kube-router.io/service.scheduler": "fastest"}}))
    world.sync()
    (row,) = virtual(world).values()
    assert row.scheduler == "rr"
    (problem,) = world.journal.standing
    assert str(problem).startswith(
        "Service shop/web: metadata.annotations[kube-router.io/service.scheduler]: 'fastest'"
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None"},
        {"type": "ExternalName", "clusterIP": ""},
        {"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}},
        {"metadata": {"labels": {"service.kubernetes.io/headless": ""}}},
    ],
)
def test_services_that_are_not_ours(spec: dict[str, Any]) -> None:
    world = ProxyWorld()
    world.feed(service(**spec))
    world.feed(endpoints(("10.1.0.1", NODE, "rs")))
    world.sync()
    assert virtual(world) == {}
    assert vips(world) == set()


def test_b25_dual_stack_and_a_disabled_family() -> None:
    """B25: families that are turned off were programmed all the same."""
    spec = {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd96::10"]}
    both = (("10.1.0.1", NODE, "rs"), ("fd00::1", NODE, "rs"))
    node = {
        "kind": "Node",
        "metadata": {"name": NODE},
        "status": {"addresses": [{"type": "InternalIP", "address": a} for a in ("192.0.2.1", "2001:db8::1")]},
    }
    world = ProxyWorld(families=(Family.IPV4, Family.IPV6))
    for raw in (json.dumps(node).encode(), service(**spec), endpoints(both[0]), endpoints(both[1])):
        world.feed(raw)
    world.sync()
    assert set(virtual(world)) == {"10.96.0.10/TCP/80", "fd96::10/TCP/80"}
    assert answering(world) == {"10.1.0.1", "fd00::1"}
    only4 = ProxyWorld()
    for raw in (json.dumps(node).encode(), service(**spec), endpoints(both[0]), endpoints(both[1])):
        only4.feed(raw)
    only4.sync()
    assert set(virtual(only4)) == {"10.96.0.10/TCP/80"}
    assert answering(only4) == {"10.1.0.1"}


def test_b05_the_older_service_keeps_a_contested_address_and_the_younger_takes_over() -> None:
    """B5: the winner was random in each pass."""
    world = ProxyWorld()
    old = {"creationTimestamp": "2025-01-01T00:00:00Z"}
    world.feed(service("young"))
    world.feed(endpoints(("10.1.0.1", NODE, "rs"), service="young"))
    world.sync()
    assert answering(world) == {"10.1.0.1"}
    world.feed(service("old", metadata=old))
    world.feed(endpoints(("10.1.0.2", NODE, "rs"), service="old"))
    world.sync()
    assert answering(world) == {"10.1.0.2"}
    (problem,) = world.journal.standing
    assert str(problem) == (
        "Service shop/young: spec.clusterIPs: 10.96.0.10 port 80/TCP belongs to Service shop/old; "
        "this Service is not served there"
    )
    world.put(Deleted(ObjectRef("Service", "shop", "old")))
    world.sync()
    assert answering(world) == {"10.1.0.1"}
    assert world.journal.standing == ()


def test_b01_names_that_join_alike_do_not_mix() -> None:
    """B1: `team` with `a-web` and `team-a` with `web` shared a key, and each got the other's endpoints."""
    world = ProxyWorld()
    for namespace, name, ip, pod in (
        ("team", "a-web", "10.96.0.1", "10.1.0.1"),
        ("team-a", "web", "10.96.0.2", "10.1.0.2"),
    ):
        world.feed(service(name, clusterIP=ip, metadata={"namespace": namespace}))
        raw = json.loads(endpoints((pod, NODE, "rs"), service=name))
        raw["metadata"]["namespace"] = namespace
        world.feed(json.dumps(raw).encode())
    world.sync()
    assert {
        (ip_address(k.service.address).exploded, ip_address(k.address).exploded) for k in world.table(Destination)
    } == {
        ("10.96.0.1", "10.1.0.1"),
        ("10.96.0.2", "10.1.0.2"),
    }


def test_removing_everything_leaves_the_nodes_part_alone() -> None:
    world = ProxyWorld()
    before = {row: dict(world.table(row)) for row in (IpSet, Member, Chain, Hook, Address, VirtualService)}
    world.feed(service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    world.feed(endpoints(("10.1.0.1", NODE, "rs")))
    world.sync()
    assert world.table(Member) != before[Member]
    world.put(Deleted(ObjectRef("EndpointSlice", "shop", "web-v4")))
    world.put(Deleted(ObjectRef("Service", "shop", "web")))
    world.sync()
    assert {row: dict(world.table(row)) for row in before} == before


def test_the_guard_serves_known_ports_and_never_refuses_the_node() -> None:
    world = ProxyWorld()
    chain = next(c for k, c in world.table(Chain).items() if k.name == "KUBE-ROUTER-SERVICES")
    accept, spare, reset, refuse = chain.rules[-4:]
    assert accept == "-m set --match-set kube-router-svip-prt dst,dst -j ACCEPT"
    assert spare == "-m set --match-set kube-router-local-ips dst -j RETURN"
    assert reset == "-p tcp -j REJECT --reject-with tcp-reset"
    assert refuse == "-j REJECT --reject-with icmp-port-unreachable"
    assert [k.text for k in world.table(Hook) if k.chain == "INPUT"] == [
        "-m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES",
        accept,
    ]
    unguarded = ProxyWorld(ProxySettings(guard=False))
    assert not any(k.name == "KUBE-ROUTER-SERVICES" for k in unguarded.table(Chain))
    assert not any(k.chain == "INPUT" for k in unguarded.table(Hook))


def test_destinations_begin_elsewhere_on_every_node() -> None:
    from kuberouter.compilers.services.endpoints import in_order
    from kuberouter.model.cluster import Endpoint

    found = [Endpoint(bytes((10, 1, 0, n)), 3) for n in range(20)]
    firsts = {in_order(iter(found), f"node-{n}")[0] for n in range(20)}
    assert len(firsts) > 5
    assert in_order(iter(found), "a") == in_order(iter(reversed(found)), "a")
