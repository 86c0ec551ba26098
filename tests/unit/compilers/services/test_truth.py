"""The truth table of traffic policies against the rows that are compiled, in both families."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from kuberouter.cluster.allocations import MARK_MASK
from kuberouter.decode.scalars import prefix
from kuberouter.model.cluster import KnownMark
from kuberouter.model.core import Family, ObjectRef, Reason
from kuberouter.model.events import Upserted
from kuberouter.model.netfilter import IpSet
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.packets import ESCAPED, REFUSED, Fate, Node, Packet
from tests.support.truth import (
    ELSEWHERE,
    HERE,
    SCENARIOS,
    ZONE,
    Backend,
    Cell,
    Client,
    Kind,
    Policy,
    Scenario,
    cells,
    table,
    truth,
)
from tests.support.world import ProxyWorld

DOC = Path(__file__).resolve().parents[4] / "docs" / "service-proxy.md"
FAMILIES = (Family.IPV4, Family.IPV6)
NODE = ("192.0.2.1", "2001:db8::1")
OTHER_NODE = ("192.0.2.2", "2001:db8::2")
PLACES = {
    Kind.CLUSTER_IP: (("10.96.0.10", "fd96::10"), 80),
    Kind.NODE_PORT: (NODE, 30080),
    Kind.EXTERNAL_IP: (("198.51.100.7", "2001:db8:1::7"), 80),
    Kind.LOAD_BALANCER: (("203.0.113.7", "2001:db8:2::7"), 80),
}
SOURCES = {
    Client.POD: ("10.244.1.9", "fd44:1::9"),
    Client.OTHER_POD: ("10.244.2.9", "fd44:2::9"),
    Client.NODE: NODE,
    Client.OUTSIDE: ("192.0.2.100", "2001:db8::100"),
}
SETTINGS = ProxySettings(
    addresses=AddressRules(
        cluster_ranges=(prefix("10.96.0.0/16"), prefix("fd96::/112")),
        external_ranges=(prefix("198.51.100.0/24"), prefix("2001:db8:1::/48")),
        load_balancer_ranges=(prefix("203.0.113.0/24"), prefix("2001:db8:2::/48")),
    )
)


def node_object(name: str, addresses: tuple[str, ...], number: int) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": ZONE}},
        "spec": {"podCIDRs": [f"10.244.{number}.0/24", f"fd44:{number}::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
    }


def service_object(internal: Policy, external: Policy) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": PLACES[Kind.CLUSTER_IP][0][0],
            "clusterIPs": PLACES[Kind.CLUSTER_IP][0],
            "externalIPs": PLACES[Kind.EXTERNAL_IP][0],
            "internalTrafficPolicy": internal.value,
            "externalTrafficPolicy": external.value,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in PLACES[Kind.LOAD_BALANCER][0]]}},
    }


def addresses(backends: tuple[Backend, ...], index: int) -> dict[str, str]:
    """The address of each endpoint in a family."""
    pools = ("10.244.{}.{}", "fd44:{}::{}")
    return {b.name: pools[index].format(1 if b.here else 2, 10 + n) for n, b in enumerate(backends)}


def slice_object(name: str, backends: tuple[Backend, ...], places: dict[str, str]) -> dict[str, Any]:
    endpoints = []
    for backend in backends:
        hints = {"forZones": backend.zones, "forNodes": backend.nodes}
        endpoints.append(
            {
                "addresses": [places[backend.name]],
                "nodeName": HERE if backend.here else ELSEWHERE,
                "conditions": {
                    "ready": backend.ready,
                    "serving": backend.serving,
                    "terminating": backend.terminating,
                },
                "hints": {key: [{"name": n} for n in names] for key, names in hints.items() if names},
            }
        )
    v6 = any(":" in places[b.name] for b in backends)
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv6" if v6 else "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    }


def world(internal: Policy, external: Policy, scenario: Scenario, *, split: bool = False) -> ProxyWorld:
    """A node that knows all this; with `split` every endpoint is in a slice of its own."""
    made = ProxyWorld(SETTINGS, FAMILIES, node=json.dumps(node_object(HERE, NODE, 1)).encode(), start=False)
    objects = [node_object(ELSEWHERE, OTHER_NODE, 2), service_object(internal, external)]
    for index in range(2):
        places = addresses(scenario.backends, index)
        groups = [(b,) for b in scenario.backends] if split else [scenario.backends]
        objects += [slice_object(f"web-{index}-{n}", group, places) for n, group in enumerate(groups)]
    for value in objects:
        made.feed(json.dumps(value).encode())
    made.sync()
    assert made.journal.standing == ()
    return made


def seen(made: ProxyWorld, cell: Cell, index: int) -> Fate:
    """What the rows do with the client's packet."""
    vips, port = PLACES[cell.kind]
    packet = Packet(SOURCES[cell.client][index], vips[index], port, own=cell.client is Client.NODE)
    return Node({row: made.table(row) for row in made.drivers}, NODE).fate(packet)


@pytest.mark.parametrize("split", [False, True], ids=["one slice", "slices"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_the_rows_do_what_the_truth_table_says(scenario: Scenario, split: bool) -> None:
    wrong: list[str] = []
    for internal, external in itertools.product(Policy, repeat=2):
        made = world(internal, external, scenario, split=split)
        for cell in cells():
            if (cell.internal, cell.external, cell.scenario) != (internal, external, scenario):
                continue
            for index in range(2):
                places = addresses(scenario.backends, index)
                names = frozenset(places[name] for name in truth(cell))
                expected = Fate(names, "" if names else REFUSED)
                found = seen(made, cell, index)
                if found != expected:
                    wrong.append(f"{cell.kind.value} {internal} {external} {cell.client.value}: {found} not {expected}")
    assert wrong == []


def test_the_table_has_every_state_and_no_cell_that_differs_from_its_column() -> None:
    lines = table().splitlines()
    assert len(lines) == len(SCENARIOS) + 2
    assert lines[3].split(" | ")[0] == "| remote"
    assert lines[3].endswith("| remote | refused | remote | refused |")
    assert table() in DOC.read_text(), "put what `python -m tests.support.truth` prints into the page"


def test_names_of_sets_fit_into_the_kernel() -> None:
    made = world(Policy.CLUSTER, Policy.LOCAL, SCENARIOS[1])
    assert max(len(key.name) for key in made.table(IpSet)) <= 31


def test_the_interpreter_sees_what_escapes() -> None:
    made = world(Policy.CLUSTER, Policy.CLUSTER, SCENARIOS[0])
    node = Node({row: made.table(row) for row in made.drivers}, NODE)
    assert node.fate(Packet("10.244.1.9", "10.96.0.99", 80)) == Fate(end=ESCAPED)
    assert node.fate(Packet("10.244.1.9", "10.96.0.10", 81)) == Fate(end=REFUSED)


@pytest.mark.parametrize("external", Policy)
def test_where_no_mark_is_left_for_clients_of_the_cluster_the_service_says_so(external: Policy) -> None:
    made = ProxyWorld(SETTINGS, FAMILIES, node=json.dumps(node_object(HERE, NODE, 1)).encode(), start=False)
    for mark in range(1, MARK_MASK + 1):
        made.put(Upserted(KnownMark(ObjectRef("KnownMark", "", str(mark)), mark)))
    made.feed(json.dumps(service_object(Policy.LOCAL, external)).encode())
    made.sync()
    text = "every firewall mark is taken; at some ports pods and nodes too reach endpoints of their own node only"
    found = [(p.field, p.reason, p.message) for p in made.journal.standing]
    wanted = [("spec.externalTrafficPolicy", Reason.CONFLICT, text)] if external is Policy.LOCAL else []
    assert found == wanted
