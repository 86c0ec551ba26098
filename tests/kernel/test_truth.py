"""The main cells of the truth table with packets: who is served and who is refused under policies Local, and by whom.

What is asked of the rows alone, in every cell, is in tests/unit/compilers/services/test_truth.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.conftest import need
from tests.kernel.proxynode import (
    CLIENT,
    NODE_ADDRESS,
    PODS,
    PROMPT,
    SECOND_CLIENT,
    TARGET,
    Net,
    Proxy,
    failures,
    vips,
)
from tests.support.lab import netns
from tests.support.probes import Outcome
from tests.support.truth import LOCAL, REMOTE, Backend, Cell, Client, Kind, Policy, Scenario, truth

pytestmark = [pytest.mark.root, pytest.mark.ipvs, pytest.mark.dummy]

PROBED = {"local": "pod2", "remote": "far"}
"""The pod that stands for an endpoint of the table."""
SOURCES = {Client.POD: "pod1", Client.NODE: "node", Client.OUTSIDE: "client"}
PLACES = {Kind.CLUSTER_IP: (vips(20), 80), Kind.EXTERNAL_IP: (vips(21), 80), Kind.NODE_PORT: (NODE_ADDRESS, 30081)}
OTHER_NODE = {
    "kind": "Node",
    "metadata": {"name": "other"},
    "spec": {"podCIDRs": ["10.244.2.0/24", "fd44:2::/64"]},
    "status": {"addresses": [{"type": "InternalIP", "address": a} for a in ("192.0.2.2", "2001:db8::2")]},
}
LEAVING = Backend("local", True, ready=False, terminating=True)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    need("ip_vs")
    need("dummy")
    net = Net()
    try:
        net.build()
        with netns.inside(net.node):
            proxy = Proxy(net)
            proxy.apply(OTHER_NODE)
            yield proxy
    finally:
        net.remove()


def service(internal: Policy, external: Policy, **spec: Any) -> dict[str, Any]:
    ports = [{"name": p, "protocol": p.upper(), "port": 80, "nodePort": 30081} for p in ("tcp", "udp")]
    given = {
        "type": "LoadBalancer",
        "clusterIP": vips(20)[0],
        "clusterIPs": list(vips(20)),
        "externalIPs": list(vips(21)),
        "internalTrafficPolicy": internal.value,
        "externalTrafficPolicy": external.value,
        "ports": ports,
        **spec,
    }
    balancer = {"ingress": [{"ip": ip} for ip in vips(22)]}
    metadata = {"name": "truth", "namespace": "shop"}
    return {"kind": "Service", "metadata": metadata, "spec": given, "status": {"loadBalancer": balancer}}


def slices(*backends: Backend) -> list[dict[str, Any]]:
    found = Proxy.slices("truth")
    for index, each in enumerate(found):
        each["ports"] = [{"name": p, "protocol": p.upper(), "port": TARGET} for p in ("tcp", "udp")]
        each["endpoints"] = [
            {
                "addresses": [PODS[PROBED[b.name]][index]],
                "nodeName": PODS[PROBED[b.name]][2],
                "conditions": {"ready": b.ready, "serving": b.serving, "terminating": b.terminating},
            }
            for b in backends
        ]
    return found


@pytest.mark.parametrize(
    "backends",
    [(), (REMOTE,), (LOCAL, REMOTE), (LEAVING, REMOTE)],
    ids=["none", "remote", "local and remote", "local terminating and remote"],
)
def test_clients_are_served_as_the_truth_table_says(proxy: Proxy, backends: tuple[Backend, ...]) -> None:
    proxy.apply(service(Policy.LOCAL, Policy.LOCAL), *slices(*backends))
    assert failures(proxy) == {}
    wrong: list[str] = []
    for kind, (addresses, port) in PLACES.items():
        for client, source in SOURCES.items():
            cell = Cell(kind, Policy.LOCAL, Policy.LOCAL, client, Scenario("", backends))
            expected = {PROBED[name] for name in truth(cell)}
            for index, protocol in ((0, "tcp"), (1, "udp")):
                results = proxy.tries(source, protocol, addresses[index], port, count=2 * max(1, len(expected)))
                found = {result.server for result in results if result.outcome is Outcome.ALLOWED}
                prompt = all(r.outcome is Outcome.REFUSED and r.seconds < PROMPT for r in results)
                if found != expected or (not expected and not prompt):
                    wrong.append(f"{kind.value} {client.value} {protocol}: {results}, not {expected or 'refused'}")
    assert wrong == []


def test_a_pod_of_another_node_is_inside_too(proxy: Proxy) -> None:
    proxy.apply(service(Policy.CLUSTER, Policy.LOCAL), *slices(LOCAL, REMOTE))
    for index, protocol in ((0, "tcp"), (1, "udp")):
        results = proxy.tries("far", protocol, NODE_ADDRESS[index], 30081)
        assert {result.server for result in results} == {"pod2", "far"}, results


def test_only_listed_clients_reach_a_load_balancer_address(proxy: Proxy) -> None:
    ranges = [f"{CLIENT[0]}/32", f"{CLIENT[1]}/128", f"{PODS['pod1'][0]}/31"]
    listed = service(Policy.CLUSTER, Policy.CLUSTER, loadBalancerSourceRanges=ranges)
    proxy.apply(listed, *slices(LOCAL))
    four, six = vips(22)
    for source, vip, allowed in (
        ("client", four, True),
        ("client", six, True),
        ("pod1", four, True),
        ("pod1", six, False),
        ("node", four, False),
    ):
        for protocol in ("tcp", "udp"):
            (result,) = proxy.tries(source, protocol, vip, count=1)
            assert result.allowed is allowed, (source, vip, protocol, result)
    (result,) = proxy.tries("node", "tcp", vips(20)[0], count=1)
    assert result.allowed, "nothing but load balancer addresses is restricted"
    listed["spec"]["loadBalancerSourceRanges"] = [f"{SECOND_CLIENT}/32", f"{NODE_ADDRESS[0]}/32"]
    proxy.apply(listed)
    (result,) = proxy.tries("client", "tcp", four, count=1)
    assert result.outcome is Outcome.DROPPED
    (result,) = proxy.tries("node", "tcp", four, count=1)
    assert result.allowed


def test_a_restart_finds_everything_as_it_is(proxy: Proxy) -> None:
    ranges = [f"{CLIENT[0]}/32", f"{CLIENT[1]}/128"]
    proxy.apply(service(Policy.CLUSTER, Policy.LOCAL, loadBalancerSourceRanges=ranges), *slices(REMOTE))
    assert proxy.restart() == 0, proxy.world.report.batches
    (result,) = proxy.tries("pod1", "tcp", vips(21)[0], count=1)
    assert result.server == "far"
