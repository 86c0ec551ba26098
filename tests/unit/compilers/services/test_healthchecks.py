"""Health check node ports: who has one, and how many endpoints it counts."""

from __future__ import annotations

from typing import Any

from kuberouter.model.core import Family, ObjectRef
from kuberouter.model.events import Deleted
from kuberouter.model.host import HealthPort, HealthPortKey
from tests.support.world import NODE, ProxyWorld
from tests.unit.compilers.services.test_services import endpoints, service

PORT = 31999


def balanced(name: str = "web", **spec: Any) -> bytes:
    given = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": PORT, **spec}
    return service(name, **given)


def answers(world: ProxyWorld) -> dict[int, tuple[str, int]]:
    """Service and count by port."""
    return {k.port: (f"{row.namespace}/{row.name}", row.endpoints) for k, row in world.table(HealthPort).items()}


def test_b15_ready_local_endpoints_of_the_whole_service_count() -> None:
    world = ProxyWorld()
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    world.feed(balanced(ports=ports))
    items = [
        ("10.1.0.1", NODE, "rs"),
        ("10.1.0.2", NODE, "rs"),
        ("10.1.0.3", NODE, "st"),
        ("10.1.0.4", NODE, "rst"),
        ("10.1.0.5", NODE, ""),
        ("10.1.0.6", "other", "rs"),
    ]
    # Each slice has one of the ports only, and one endpoint is in both.
    world.feed(endpoints(*items[:4], name="web-1", ports=[{"name": "a", "port": 8080}]))
    world.feed(endpoints(*items[1:], name="web-2", ports=[{"name": "b", "port": 8081}]))
    world.sync()
    assert answers(world) == {PORT: ("shop/web", 2)}


def test_b15_counts_are_right_beyond_127() -> None:
    world = ProxyWorld()
    world.feed(balanced())
    for part in range(3):
        items = [(f"10.1.{part}.{n}", NODE, "rs") for n in range(100)]
        world.feed(endpoints(*items, name=f"web-{part}"))
    world.sync()
    assert answers(world) == {PORT: ("shop/web", 300)}
    world.put(Deleted(ObjectRef("EndpointSlice", "shop", "web-1")))
    assert world.sync() == 101, "the destinations of the slice, and one answer"
    assert answers(world) == {PORT: ("shop/web", 200)}


def test_a_pod_of_both_families_is_one() -> None:
    world = ProxyWorld(families=(Family.IPV4, Family.IPV6))
    world.feed(balanced())
    world.feed(endpoints(("10.1.0.1", NODE, "rs"), ("10.1.0.2", NODE, "rs")))
    world.feed(endpoints(("fd00::1", NODE, "rs"), ("fd00::2", NODE, "rs")))
    world.sync()
    assert answers(world) == {PORT: ("shop/web", 2)}


def test_b15_a_port_that_moves_to_another_service_is_answered_for_that() -> None:
    world = ProxyWorld()
    world.feed(balanced())
    world.feed(service("api", clusterIP="10.96.0.11"))
    world.feed(endpoints(("10.1.0.1", NODE, "rs")))
    world.feed(endpoints(("10.1.0.2", NODE, "rs"), ("10.1.0.3", NODE, "rs"), service="api"))
    world.sync()
    assert answers(world) == {PORT: ("shop/web", 1)}
    world.feed(balanced(healthCheckNodePort=0))
    world.feed(balanced("api", clusterIP="10.96.0.11"))
    world.sync()
    assert answers(world) == {PORT: ("shop/api", 2)}
    world.put(Deleted(ObjectRef("Service", "shop", "api")))
    world.sync()
    assert answers(world) == {}


def test_an_endpoint_elsewhere_costs_no_answer() -> None:
    world = ProxyWorld()
    world.feed(balanced())
    world.feed(endpoints(("10.1.0.1", NODE, "rs"), ("10.1.0.2", "other", "rs")))
    world.sync()
    row = world.table(HealthPort)[HealthPortKey(PORT)]
    world.feed(endpoints(("10.1.0.1", NODE, "rs"), ("10.1.0.3", "other", "rs")))
    world.sync()
    assert world.table(HealthPort)[HealthPortKey(PORT)] is row


def test_a_service_of_another_proxy_has_none() -> None:
    world = ProxyWorld()
    world.feed(balanced(metadata={"labels": {"service.kubernetes.io/service-proxy-name": "other"}}))
    world.feed(endpoints(("10.1.0.1", NODE, "rs")))
    world.sync()
    assert answers(world) == {}
