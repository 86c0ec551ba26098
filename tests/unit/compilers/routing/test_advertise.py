"""Of which addresses of Services a node tells peers outside the cluster: bytes in, paths and set entries out."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from kuberouter.cluster.dependents import routing
from kuberouter.compilers.routing import COMPILERS
from kuberouter.model import bgp
from kuberouter.model.core import Family, ObjectRef, Prefix, Reason
from kuberouter.model.events import Deleted
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.netfilter import Hook, IpSet, Member
from kuberouter.model.network import Link, PolicyRule, Route
from kuberouter.model.settings import AddressRules, Advertise, RouterSettings
from tests.support.world import NODE, World
from tests.unit.compilers.services.test_services import endpoints, service

ROWS = (Sysctl, IpSet, Member, Hook, Link, Route, PolicyRule, *bgp.TABLES, CniSettings)
BOTH = (Family.IPV4, Family.IPV6)
POD_CIDR, ME = "10.244.1.0/24", "192.0.2.1"
CLUSTER, EXTERNAL, BALANCER = "10.96.0.10", "203.0.113.10", "203.0.113.20"
KEY = "kube-router.io/service."
PAGE = Path(__file__).resolve().parents[4] / "docs" / "bgp-services.md"


def ranges(*texts: str) -> tuple[Prefix, ...]:
    return tuple(Prefix(ip_network(t).network_address.packed, ip_network(t).prefixlen) for t in texts)


RULES = AddressRules(
    True, ranges("10.96.0.0/12"), ranges("203.0.113.0/28"), ranges("203.0.113.16/28", "2001:db8:1::/64")
)
ALL = RouterSettings(advertise=Advertise(True, True, True, True), addresses=RULES)
NONE = RouterSettings(addresses=RULES)


def node(name: str = NODE, *addresses: str, annotations: Any = None, **spec: Any) -> bytes:
    return json.dumps(
        {
            "kind": "Node",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"podCIDRs": [POD_CIDR if name == NODE else "10.244.2.0/24"], **spec},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses or (ME,)]},
        }
    ).encode()


def annotated(name: str = "web", notes: dict[str, str] | None = None, balancer: str = BALANCER, **spec: Any) -> bytes:
    """A LoadBalancer Service with an address of each kind."""
    metadata = {"annotations": {KEY + key: text for key, text in (notes or {}).items()}}
    given = {"type": "LoadBalancer", "clusterIP": CLUSTER, "externalIPs": [EXTERNAL], "metadata": metadata, **spec}
    found = json.loads(service(name, **given))
    found["status"] = {"loadBalancer": {"ingress": [{"ip": balancer}]}}
    return json.dumps(found).encode()


class Router(World):
    """The route controller's half of a node."""

    def __init__(self, settings: RouterSettings = ALL, *objects: bytes, families: tuple[Family, ...] = (Family.IPV4,)):
        super().__init__([routing], COMPILERS, settings, ROWS, families)
        self.tell(node(), *objects)

    def tell(self, *objects: bytes) -> set[str]:
        """Feed objects; returns what peers are told then."""
        for raw in objects:
            self.feed(raw)
        self.sync()
        return self.told()

    def gone(self, kind: str, name: str) -> set[str]:
        self.put(Deleted(ObjectRef(kind, "" if kind == "Node" else "shop", name)))
        self.sync()
        return self.told()

    def told(self) -> set[str]:
        """Addresses that have a path; each has an entry in the set of its family, and no other has one."""
        paths = {key.prefix: row.next_hop for key, row in self.table(bgp.Path).items()}
        vips = {prefix for prefix in paths if prefix.length == len(prefix.address) * 8}
        entries = {key for key in self.table(bgp.PrefixSetEntry) if key.set.startswith("servicevips")}
        assert {key.prefix for key in entries} == vips
        for key in entries:
            assert (key.shortest, key.longest) == (key.prefix.length, key.prefix.length)
            assert key.set == ("servicevipsdefinedsetv6" if len(key.prefix.address) == 16 else "servicevipsdefinedset")
            assert len(paths[key.prefix]) == len(key.prefix.address)
        # Whatever becomes of Services, the pods of the node are told of.
        assert paths.keys() - vips == set(ranges(POD_CIDR))
        return {str(ip_address(prefix.address)) for prefix in vips}


HERE, THERE = endpoints(("10.244.1.5", NODE, "rs")), endpoints(("10.244.2.5", "node-2", "rs"))
EVERY = {CLUSTER, EXTERNAL, BALANCER}


# --- kinds of addresses


@pytest.mark.parametrize(
    ("advertise", "told"),
    [
        (Advertise(), set()),
        (Advertise(cluster_ip=True), {CLUSTER}),
        (Advertise(external_ip=True), {EXTERNAL}),
        (Advertise(load_balancer_ip=True), {BALANCER}),
        (Advertise(True, True, True, True), EVERY),
    ],
)
def test_flags_say_which_kinds_of_addresses_are_told(advertise: Advertise, told: set[str]) -> None:
    settings = RouterSettings(advertise=advertise, addresses=RULES)
    assert Router(settings, annotated(), HERE).told() == told


@pytest.mark.parametrize(
    ("kind", "address"), [("clusterip", CLUSTER), ("externalip", EXTERNAL), ("loadbalancerip", BALANCER)]
)
def test_an_annotation_goes_before_the_flag_both_ways(kind: str, address: str) -> None:
    """advertise_annotation_toggle: set, then unset."""
    router = Router(NONE, annotated(), HERE)
    assert router.told() == set()
    assert router.tell(annotated(notes={f"advertise.{kind}": "true"})) == {address}
    assert router.tell(annotated(notes={f"advertise.{kind}": "false"})) == set()
    assert router.tell(annotated(notes={f"advertise.{kind}": "1"})) == {address}
    assert router.tell(annotated()) == set()
    router = Router(ALL, annotated(notes={f"advertise.{kind}": "f"}), HERE)
    assert router.told() == EVERY - {address}
    # What is no boolean counts as false, and is told.
    assert router.tell(annotated(notes={f"advertise.{kind}": "yes"})) == EVERY - {address}
    assert [p.field for p in router.journal.standing] == [f"metadata.annotations[{KEY}advertise.{kind}]"]


def test_load_balancer_addresses_are_those_of_load_balancers() -> None:
    router = Router(ALL, annotated(notes={"skiplbips": ""}), HERE)
    assert router.told() == {CLUSTER, EXTERNAL}
    assert router.tell(annotated()) == EVERY
    # The status is still there.
    assert router.tell(annotated(type="NodePort")) == {CLUSTER, EXTERNAL}


@pytest.mark.parametrize(
    "spec", [{"type": "ExternalName"}, {"clusterIP": "None"}, {"clusterIP": "none"}, {"clusterIP": ""}]
)
def test_a_service_without_cluster_ip_is_told_of_with_no_address(spec: dict[str, str]) -> None:
    assert Router(ALL, annotated(**spec), HERE).told() == set()


def test_families_are_those_of_the_node() -> None:
    web = annotated(clusterIP=CLUSTER, clusterIPs=[CLUSTER, "fd00:10::10"], balancer="2001:db8:1::1")
    slices = (HERE, endpoints(("fd44:1::5", NODE, "rs")))
    assert Router(ALL, web, *slices).told() == {CLUSTER, EXTERNAL}
    router = Router(ALL, web, *slices, families=BOTH)
    assert router.told() == {CLUSTER, EXTERNAL}, "the node has no IPv6 address"
    six = {"fd00:10::10", "2001:db8:1::1"}
    assert router.tell(node(NODE, ME, "2001:db8::1")) == {CLUSTER, EXTERNAL} | six
    # Each family needs endpoints of its own, for a proxy does not translate.
    assert router.gone("EndpointSlice", "web-v4") == six
    assert router.tell(HERE) == {CLUSTER, EXTERNAL} | six


# --- addresses that nobody may have


def test_refused_addresses_are_told_to_nobody_but_who_asked_for_them() -> None:
    router = Router(ALL, annotated(externalIPs=["198.51.100.1", CLUSTER, EXTERNAL], balancer=EXTERNAL), HERE)
    assert router.told() == {CLUSTER, EXTERNAL}
    assert {(p.field, p.reason) for p in router.journal.standing} == {
        ("spec.externalIPs", Reason.FORBIDDEN),
        ("status.loadBalancer.ingress", Reason.FORBIDDEN),
    }
    # Of what is not to be told anyway there is nothing to say.
    assert not Router(NONE, annotated(externalIPs=["198.51.100.1"]), HERE).journal.standing
    lenient = RouterSettings(advertise=ALL.advertise, addresses=AddressRules(strict=False))
    assert Router(lenient, annotated(externalIPs=["198.51.100.1"]), HERE).told() == {CLUSTER, BALANCER, "198.51.100.1"}


def test_addresses_of_nodes_are_reached_without() -> None:
    router = Router(ALL, annotated(), HERE)
    assert router.tell(node("node-2", "192.0.2.2", EXTERNAL)) == {CLUSTER, BALANCER}
    assert router.tell(node(NODE, ME, BALANCER)) == {CLUSTER}
    assert router.gone("Node", "node-2") == {CLUSTER, EXTERNAL}


# --- endpoints


@pytest.mark.parametrize(
    ("spec", "notes", "told"),
    [
        ({}, {}, EVERY),
        ({"internalTrafficPolicy": "Local"}, {}, {EXTERNAL, BALANCER}),
        ({"externalTrafficPolicy": "Local"}, {}, {CLUSTER}),
        ({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}, {}, set()),
        ({}, {"local": "true"}, {CLUSTER}),
        ({"internalTrafficPolicy": "Local"}, {"local": "true"}, {CLUSTER}),
        ({"externalTrafficPolicy": "Local"}, {"local": "false"}, {CLUSTER}),
    ],
)
def test_local_is_told_where_an_endpoint_is(spec: dict[str, str], notes: dict[str, str], told: set[str]) -> None:
    router = Router(ALL, annotated(notes=notes, **spec), THERE)
    assert router.told() == told
    assert router.tell(HERE) == EVERY
    assert router.tell(THERE) == told


@pytest.mark.parametrize(
    ("conditions", "counts"), [("rs", True), ("r", True), ("s", False), ("st", False), ("rst", False)]
)
def test_b04_endpoints_that_are_not_ready_or_terminate_do_not_count(conditions: str, counts: bool) -> None:
    slices = endpoints(("10.244.1.5", NODE, conditions), ("10.244.2.5", "node-2", "rs"))
    router = Router(ALL, annotated(externalTrafficPolicy="Local"), slices)
    assert router.told() == (EVERY if counts else {CLUSTER})


def test_b04_addresses_follow_readiness_at_once() -> None:
    router = Router(ALL, annotated(), HERE)
    assert router.told() == EVERY
    for conditions, told in (("s", set()), ("rs", EVERY), ("st", set()), ("", set()), ("r", EVERY)):
        assert router.tell(endpoints(("10.244.1.5", NODE, conditions))) == told


def test_b04_an_endpoint_that_begins_to_terminate_no_longer_counts_whatever_else_it_says() -> None:
    router = Router(ALL, annotated(externalTrafficPolicy="Local"), HERE)
    assert router.told() == EVERY
    assert router.tell(endpoints(("10.244.1.5", NODE, "rst"))) == {CLUSTER}


def test_who_publishes_endpoints_that_are_not_ready_is_served_by_them() -> None:
    web = annotated(publishNotReadyAddresses=True, externalTrafficPolicy="Local")
    # So the API tells of an endpoint that terminates.
    assert Router(ALL, web, endpoints(("10.244.1.5", NODE, "rst"))).told() == EVERY


def test_scaled_to_zero_is_withdrawn_at_once_and_back_at_once() -> None:
    router = Router(ALL, annotated(), HERE)
    assert router.tell(endpoints(("10.244.1.5", NODE, "st"))) == set(), "the last pod terminates"
    assert router.tell(HERE) == EVERY
    empty = json.loads(HERE)
    empty["endpoints"] = None
    assert router.tell(json.dumps(empty).encode()) == set()
    assert router.tell(HERE) == EVERY


def test_ports_are_told_of_as_long_as_one_has_endpoints() -> None:
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    router = Router(
        ALL, annotated(ports=ports), endpoints(("10.244.1.5", NODE, "rs"), ports=[{"name": "b", "port": 1}])
    )
    assert router.told() == EVERY
    assert router.tell(endpoints(("10.244.1.5", NODE, "rs"), ports=[{"name": "c", "port": 1}])) == set()


# --- one and another


def test_b01_a_service_without_slices_takes_nothing_from_others() -> None:
    router = Router(ALL, annotated(), HERE)
    alone = service("alone", clusterIP="10.96.0.11", externalIPs=["203.0.113.11"])
    assert router.tell(alone) == EVERY
    assert router.gone("Service", "alone") == EVERY
    # Neither does one that asks for what it may not have, nor one of which nothing can be made.
    assert router.tell(service("greedy", clusterIP="10.96.0.12", externalIPs=["8.8.8.8", "x"])) == EVERY
    assert (
        router.tell(json.dumps({"kind": "Service", "metadata": {"name": "bad", "namespace": "shop"}}).encode()) == EVERY
    )


def shared(name: str, cluster_ip: str, port: int, **spec: Any) -> bytes:
    given = {"clusterIP": cluster_ip, "externalIPs": [EXTERNAL], "ports": [{"port": port, "protocol": "TCP"}], **spec}
    return service(name, **given)


def test_b02_a_shared_address_stays_while_one_service_needs_it() -> None:
    """Pain 7: a slice update, an edit or the end of one of several Services with an address took it from all."""
    settings = RouterSettings(advertise=Advertise(external_ip=True), addresses=RULES)
    a, b = shared("a", "10.96.0.11", 80), shared("b", "10.96.0.12", 81)
    of_a, of_b = endpoints(("10.244.1.5", NODE, "rs"), service="a"), endpoints(("10.244.1.6", NODE, "rs"), service="b")
    router = Router(settings, a, b, of_a, of_b)
    assert router.told() == {EXTERNAL}
    for what, back in (
        (endpoints(("10.244.1.5", NODE, "s"), service="a"), of_a),
        (endpoints(("10.244.2.5", "node-2", "s"), service="a"), of_a),
        (shared("a", "10.96.0.11", 80, externalIPs=[]), a),
        (shared("a", "10.96.0.11", 80, metadata={"annotations": {KEY + "advertise.externalip": "false"}}), a),
    ):
        assert router.tell(what) == {EXTERNAL}
        assert not any(row is bgp.Path for row, _ in router.report.batches)
        assert router.tell(back) == {EXTERNAL}
    assert router.gone("Service", "a") == {EXTERNAL}
    assert router.tell(endpoints(("10.244.1.6", NODE, ""), service="b")) == set()
    assert router.tell(a) == {EXTERNAL}
    assert router.gone("Service", "b") == {EXTERNAL}
    assert router.gone("Service", "a") == set()


def test_who_gets_no_port_at_an_address_has_no_say_about_it() -> None:
    """Of two Services that want one port of an address the older is served, ready or not."""
    settings = RouterSettings(advertise=Advertise(external_ip=True), addresses=RULES)
    young = {"creationTimestamp": "2026-02-01T00:00:00Z"}
    old, other = shared("old", "10.96.0.11", 80), shared("young", "10.96.0.12", 80, metadata=young)
    router = Router(settings, old, other, endpoints(("10.244.1.5", NODE, "rs"), service="young"))
    assert router.told() == set()
    assert router.gone("Service", "old") == {EXTERNAL}
    assert router.tell(old) == set()


def test_b03_what_a_service_was_told_of_with_is_withdrawn_when_it_or_its_slices_go() -> None:
    for order in (("EndpointSlice", "Service"), ("Service", "EndpointSlice")):
        router = Router(ALL, annotated(), HERE)
        for kind in order:
            assert router.gone(kind, "web-v4" if kind == "EndpointSlice" else "web") == set()
    router = Router(ALL, annotated(), HERE)
    assert router.tell(annotated(externalIPs=["203.0.113.12"])) == {CLUSTER, BALANCER, "203.0.113.12"}
    assert router.tell(annotated(type="ExternalName")) == set()


# --- the node's end


@pytest.mark.parametrize(
    "leaving",
    [
        node(annotations={"kube-router.io/drain": "true"}),
        node(taints=[{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]),
    ],
)
def test_a_node_that_drains_tells_of_no_service_and_of_its_pods(leaving: bytes) -> None:
    """drain_withdraw, pain 20: service addresses go, the pod CIDR and everything else stays."""
    router = Router(ALL, annotated(), HERE)
    assert router.told() == EVERY
    assert router.tell(leaving) == set()
    assert {row for row, _ in router.report.batches} == {bgp.Path, bgp.PrefixSetEntry}
    assert (
        router.tell(service("late", clusterIP="10.96.0.11"), endpoints(("10.244.1.6", NODE, "rs"), service="late"))
        == set()
    )
    # A mishap of the cluster is no news of the node.
    assert router.gone("Node", NODE) == set()
    assert router.tell(node()) == EVERY | {"10.96.0.11"}


def test_a_cordon_withdraws_where_a_flag_says_so() -> None:
    assert Router(ALL, node(unschedulable=True), annotated(), HERE).told() == EVERY
    settings = RouterSettings(advertise=Advertise(True, True, True, True, True), addresses=RULES)
    router = Router(settings, annotated(), HERE)
    assert router.told() == EVERY
    assert router.tell(node(unschedulable=True)) == set()
    assert router.tell(node("node-2", "192.0.2.2", unschedulable=True)) == set()
    assert router.tell(node()) == EVERY


# --- what it costs


def test_an_endpoint_of_a_big_service_touches_nothing_that_is_told() -> None:
    router = Router(ALL, annotated())
    for part in range(20):
        router.feed(endpoints(*((f"10.3.{part}.{n}", "node-2", "rs") for n in range(100)), name=f"web-{part}"))
    assert router.tell() == EVERY
    router.feed(endpoints(*((f"10.3.0.{n}", "node-2", "rs") for n in range(99)), name="web-0"))
    assert router.sync() == 0
    assert not router.planner.busy


def test_a_service_of_another_proxy_is_told_of_where_it_has_endpoints() -> None:
    web = json.loads(annotated())
    web["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    assert Router(ALL, json.dumps(web).encode(), HERE).told() == EVERY


def test_the_examples_of_the_page_do_what_it_says() -> None:
    shown = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    web, drained = map(yaml.safe_load, shown)
    web["metadata"]["namespace"] = "shop"
    web["spec"]["clusterIP"] = CLUSTER
    web["status"] = {"loadBalancer": {"ingress": [{"ip": BALANCER}]}}
    drained["spec"] = {"podCIDRs": [POD_CIDR]}
    drained["status"] = {"addresses": [{"type": "InternalIP", "address": ME}]}
    settings = RouterSettings(advertise=Advertise(cluster_ip=True), addresses=RULES)
    router = Router(settings, json.dumps(web).encode(), THERE)
    assert router.told() == set(), "it is Local, and its endpoint is elsewhere"
    assert router.tell(HERE) == {EXTERNAL, BALANCER}
    drained["metadata"]["name"] = NODE
    assert router.tell(json.dumps(drained).encode()) == set()
