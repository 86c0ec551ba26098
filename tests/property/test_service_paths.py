"""Packets to Services on compiled rows: policy leaves them alone until IPVS has put the endpoint in, then judges."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kuberouter.decode.scalars import prefix
from kuberouter.model.core import Reason
from kuberouter.model.settings import AddressRules, FirewallSettings, ProxySettings
from tests.conformance.vocabulary import ADDRESSES, NODES, goal, labels, merged, out, port, spaces
from tests.property.paths import BASE, GATEWAYS, LINKS, Paths
from tests.property.test_policies import BACKENDS
from tests.support.verdicts import packet, verdicts

DEFAULT, ELSEWHERE = FirewallSettings(cluster_ranges=(prefix("10.96.0.0/12"),)), ("10.200.0.10", "fd96::10")
CONFINED = out(goal(spaces({}, labels(app="db")), ports=[port(80)]), of=labels(tier="front"))
NODE, POD, ALLOWED, REFUSED = "n1", "x/a", "y/b", "z/a"


def service(*ips: str) -> dict[str, Any]:
    ports = [{"port": 8080, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    spec = {"type": "NodePort", "clusterIP": ips[0], "clusterIPs": list(ips), "ports": ports}
    return {"kind": "Service", "metadata": {"namespace": "y", "name": "web"}, "spec": spec}


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def passes(paths: Paths, hook: str, target: str, protocol: str, number: int, local: tuple[str, ...] = ()) -> bool:
    """What becomes of a packet of the confined pod."""
    version = 1 if ":" in target else 0
    kernel = verdicts(paths.worlds[NODE], (*NODES[NODE], *GATEWAYS[NODE], *local))
    return kernel.passes(hook, packet(ADDRESSES[POD][version], target, protocol, number, LINKS[POD], bridged=True))


def judged_by_endpoint(paths: Paths) -> None:
    """Behind IPVS the packet is in OUTPUT, from the pod to the endpoint."""
    for version in (0, 1):
        assert passes(paths, "OUTPUT", ADDRESSES[ALLOWED][version], "tcp", 80)
        assert not passes(paths, "OUTPUT", ADDRESSES[REFUSED][version], "tcp", 80)
        assert not passes(paths, "OUTPUT", ADDRESSES[ALLOWED][version], "tcp", 81)


def test_a_pod_reaches_a_service_whose_endpoints_it_may_reach(backend: str) -> None:
    """egress_vip, in the range that the flag says."""
    paths = Paths(backend, DEFAULT)
    paths.apply(merged(BASE, [CONFINED, service("10.96.0.10")]))
    assert passes(paths, "INPUT", "10.96.0.10", "tcp", 8080, ("10.96.0.10",))
    judged_by_endpoint(paths)
    assert paths.worlds[NODE].journal.standing == ()


def test_a_service_outside_the_range_of_the_flag_is_reached_all_the_same(backend: str) -> None:
    """egress_vip, pain 33: the flag is left at its default while the cluster's range is another one."""
    paths = Paths(backend, DEFAULT)
    paths.apply(merged(BASE, [CONFINED, service(*ELSEWHERE)]))
    for vip in ELSEWHERE:
        assert passes(paths, "INPUT", vip, "tcp", 8080, ELSEWHERE)
        assert passes(paths, "INPUT", vip, "udp", 53, ELSEWHERE)
        # What no Service has there may be a listener of the host.
        assert not passes(paths, "INPUT", vip, "tcp", 22, ELSEWHERE)
    judged_by_endpoint(paths)
    paths.apply(merged(BASE, [CONFINED]))
    assert not passes(paths, "INPUT", ELSEWHERE[0], "tcp", 8080, ELSEWHERE)


def test_an_external_address_that_may_be_any_is_left_to_the_proxy(backend: str) -> None:
    """egress_vip: without strict validation there are external addresses outside every range."""
    external = ("198.51.100.7", "2001:db8:9::7")
    loose = msgspec.structs.replace(DEFAULT, proxy=ProxySettings(addresses=AddressRules(strict=False)))
    for settings, left in ((loose, True), (msgspec.structs.replace(DEFAULT, proxy=ProxySettings()), False)):
        paths = Paths(backend, settings)
        balanced = service("10.96.0.10")
        balanced["spec"]["externalIPs"] = list(external)
        paths.apply(merged(BASE, [CONFINED, balanced]))
        for vip in external:
            assert passes(paths, "INPUT", vip, "tcp", 8080, external) is left
            assert not passes(paths, "INPUT", vip, "tcp", 22, external)
        assert paths.worlds[NODE].journal.standing == ()


def test_a_range_that_is_not_the_clusters_is_one_problem_of_the_node(backend: str) -> None:
    """Pain 33: told once, not for each Service."""
    paths = Paths(backend, DEFAULT)
    more = [{**service(f"10.200.0.{n}"), "metadata": {"namespace": "y", "name": f"s{n}"}} for n in range(1, 5)]
    paths.apply(merged(BASE, more))
    standing = set(paths.worlds[NODE].journal.standing)
    (problem,) = standing
    assert (problem.owner.kind, problem.owner.name, problem.reason) == ("Node", NODE, Reason.CONFLICT)
    assert problem.field == "--service-cluster-ip-range"
    assert "10.96.0.0/12" in problem.message
    paths.apply(BASE)
    assert paths.worlds[NODE].journal.standing == ()


def test_node_ports_are_left_alone_and_other_ports_of_the_node_are_not(backend: str) -> None:
    """W20: the range of node ports is no way to whatever listens there."""
    paths = Paths(backend, DEFAULT)
    paths.apply(merged(BASE, [CONFINED, service("10.96.0.10")]))
    for ip in (*NODES[NODE], *GATEWAYS[NODE]):
        assert passes(paths, "INPUT", ip, "tcp", 30080)
        for protocol, number in (("udp", 30080), ("tcp", 30081), ("tcp", 32767), ("tcp", 22)):
            assert not passes(paths, "INPUT", ip, protocol, number)
    assert not passes(paths, "INPUT", NODES["n2"][0], "tcp", 30080)


def test_a_local_source_that_comes_in_by_a_link_gets_to_no_service(backend: str) -> None:
    """W9: in OUTPUT it would be taken for the node, which reaches every pod of its own."""
    paths = Paths(backend, DEFAULT)
    paths.apply(merged(BASE, [service("10.96.0.10")]))
    kernel = verdicts(paths.worlds[NODE], (*NODES[NODE], "10.96.0.10", "172.17.0.1"))
    free = LINKS["z/b"]
    for source in ("10.96.0.10", "172.17.0.1", NODES[NODE][0]):
        assert not kernel.passes("INPUT", packet(source, "10.96.0.10", "tcp", 8080, free, bridged=True))
        assert not kernel.passes("INPUT", packet(source, NODES[NODE][0], "tcp", 30080, "eth0"))
        assert kernel.passes("INPUT", packet(source, "10.96.0.10", "tcp", 8080, "lo"))
    assert kernel.passes("INPUT", packet(ADDRESSES["z/b"][0], "10.96.0.10", "tcp", 8080, free, bridged=True))
    assert kernel.passes("INPUT", packet("198.51.100.7", "10.96.0.10", "tcp", 8080, "eth0"))
