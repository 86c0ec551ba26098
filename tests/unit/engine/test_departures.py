"""Endpoints that go and keep their connections: when that begins, when it ends, and who may."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.cluster.dependents import Change, Dirty
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.services.drain import compile_drain
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.engine.departures import Departures
from kuberouter.model.cluster import Departed, Service, ServiceType
from kuberouter.model.core import Batch, Family, Fragment, L4Protocol, ObjectRef, Outcome, Owner, Row
from kuberouter.model.events import Deleted, Synced, Upserted
from kuberouter.model.ipvs import (
    FALLBACK,
    Destination,
    DestinationKey,
    Forward,
    VirtualService,
    VirtualServiceKey,
    marked_service,
)
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings
from tests.support.world import NODE, ROWS, ProxyWorld, World, node_bytes

GRACEFUL = ProxySettings(graceful=True, graceful_period=30.0)
VIP = "10.96.0.10"
POD, OTHER = "10.244.1.5", "10.244.2.5"


class Recorder(MemoryDriver[Destination]):
    """A table in memory that remembers what was done to it."""

    def __init__(self, rows: Sequence[Destination] = ()) -> None:
        super().__init__(rows)
        self.done: list[tuple[str, str, int]] = []

    def write(self, batch: Batch[Destination]) -> Outcome:
        self.done += (("add", str(ip_address(row.key.address)), row.weight) for row in batch.add)
        self.done += (("change", str(ip_address(new.key.address)), new.weight) for _, new in batch.change)
        self.done += (("remove", str(ip_address(row.key.address)), row.weight) for row in batch.remove)
        return super().write(batch)

    def take(self) -> list[tuple[str, str, int]]:
        """What was done since the last time."""
        done, self.done = self.done, []
        return done


class Shop:
    """A node with one Service, and what was done to its destinations."""

    def __init__(
        self,
        settings: ProxySettings = GRACEFUL,
        drivers: dict[type[Row], Any] | None = None,
        *,
        start: bool = True,
        needs: Sequence[str] = (),
    ) -> None:
        self.kernel = Recorder()
        self.drivers: dict[type[Row], Any] = drivers or {row: MemoryDriver() for row in ROWS}
        if drivers is None:
            self.drivers[Destination] = self.kernel
        self.world = ProxyWorld(settings, drivers=self.drivers, start=start, needs=needs)

    def service(self, name: str = "web", vip: str = VIP, protocol: str = "TCP", **options: str) -> None:
        annotations = {f"kube-router.io/service.{key}": value for key, value in options.items()}
        metadata = {"name": name, "namespace": "shop", "annotations": annotations}
        spec = {"clusterIP": vip, "clusterIPs": [vip], "ports": [{"port": 80, "protocol": protocol}]}
        self.world.feed(json.dumps({"kind": "Service", "metadata": metadata, "spec": spec}).encode())

    def slice(self, *pods: str, name: str = "web-1", service: str = "web", protocol: str = "TCP") -> None:
        """Pods are addresses; `address:st` has conditions by first letters, `address:-` none, else it is ready."""
        items = [pod.partition(":") for pod in pods]
        value = {
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": protocol}],
            "endpoints": [
                {
                    "addresses": [address],
                    "nodeName": NODE,
                    "conditions": {
                        "ready": "r" in (letters or "rs"),
                        "serving": "s" in (letters or "rs"),
                        "terminating": "t" in letters,
                    },
                }
                for address, _, letters in items
            ],
        }
        self.world.feed(json.dumps(value).encode())

    def pod(self, address: str, grace: int | None, deletion: int | None = None) -> None:
        metadata: dict[str, Any] = {"name": f"pod-{address}", "namespace": "shop"}
        if deletion is not None:
            metadata["deletionGracePeriodSeconds"] = deletion
        spec: dict[str, Any] = {"nodeName": NODE}
        if grace is not None:
            spec["terminationGracePeriodSeconds"] = grace
        status = {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}
        value = {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}
        self.world.feed(json.dumps(value).encode())

    def done(self, now: float | None = None) -> list[tuple[str, str, int]]:
        """Work off what was told, at a moment; what became of destinations."""
        if now is not None:
            self.world.now = now
        self.world.sync()
        return self.kernel.take()

    def idle(self, address: str) -> None:
        """The source of connections says that one has no open connection left."""
        (departed,) = [d for d in self.draining() if str(ip_address(d.key.address)) == address]
        self.world.put(Deleted(departed.ref))

    def draining(self) -> tuple[Departed, ...]:
        assert self.world.departures is not None
        return self.world.departures.draining()

    def ended(self) -> dict[str, int]:
        assert self.world.departures is not None
        return dict(self.world.departures.ended)


@pytest.fixture
def shop() -> Shop:
    """Two endpoints, one of which will go."""
    shop = Shop()
    shop.service()
    shop.slice(POD, OTHER)
    assert {done for done, _, _ in shop.done(0.0)} == {"add"}
    return shop


def test_an_endpoint_that_goes_takes_no_more_and_stays_until_its_connections_end(shop: Shop) -> None:
    shop.slice(f"{POD}:st", OTHER)
    assert shop.done(1.0) == [("change", POD, 0)]
    shop.slice(OTHER)
    assert shop.done(20.0) == [], "gone from its slice it still drains"
    shop.idle(POD)
    assert shop.done(21.0) == [("remove", POD, 0)]
    assert not shop.draining()


def test_without_the_flag_it_goes_at_once() -> None:
    shop = Shop(ProxySettings())
    shop.service()
    shop.slice(POD, OTHER)
    shop.done()
    shop.slice(f"{POD}:st", OTHER)
    assert shop.done() == [("remove", POD, 1)]


@pytest.mark.parametrize(
    ("grace", "deletion", "period"),
    [(None, None, 30), (90, None, 90), (5, None, 5), (90, 2, 2), (0, None, 0)],
    ids=["default", "longer", "shorter", "deleted with another", "none"],
)
def test_the_deadline_is_the_grace_period_of_the_pod(
    shop: Shop, grace: int | None, deletion: int | None, period: int
) -> None:
    shop.pod(POD, grace, deletion)
    shop.slice(OTHER)
    shop.done(100.0)
    if period:
        assert shop.done(100.0 + period - 1.0) == []
    assert shop.done(100.0 + period + 1.0) == [("remove", POD, 0)]
    assert not shop.draining()
    assert shop.ended() == {"deadline": 1}


def test_without_a_pod_the_deadline_is_that_of_the_flag() -> None:
    shop = Shop(ProxySettings(graceful=True, graceful_period=7.0))
    shop.service()
    shop.slice(POD, OTHER)
    shop.done(0.0)
    shop.slice(OTHER)
    shop.done(10.0)
    assert shop.done(16.0) == []
    assert shop.done(18.0) == [("remove", POD, 0)]


def test_b14_an_endpoint_that_returns_is_taken_back_in_place_and_not_removed_later(shop: Shop) -> None:
    shop.slice(f"{POD}:-", OTHER)
    assert shop.done(1.0) == [("change", POD, 0)]
    first = shop.draining()[0].ref
    shop.slice(POD, OTHER)
    assert shop.done(2.0) == [("change", POD, 1)]
    assert shop.ended() == {"returned": 1}
    assert shop.done(1000.0) == [], "the deadline of the departure that it took back means nothing"
    shop.slice(OTHER)
    shop.done(1001.0)
    shop.world.put(Deleted(first))
    assert shop.done(1002.0) == [], "nor does the late word that the first departure is idle"
    assert len(shop.draining()) == 1


def test_b14_the_address_may_come_back_as_another_pod_of_another_slice(shop: Shop) -> None:
    shop.slice(OTHER)
    shop.done(1.0)
    shop.slice(POD, name="web-2")
    assert shop.done(2.0) == [("change", POD, 1)]
    assert shop.done(1000.0) == []


def test_an_endpoint_that_moves_to_another_slice_at_once_never_drains(shop: Shop) -> None:
    shop.slice(OTHER)
    shop.slice(POD, name="web-2")
    assert shop.done(1.0) == []
    assert not shop.draining()


def test_b28_of_an_endpoint_in_two_slices_one_may_go(shop: Shop) -> None:
    """[x, x, y] is not [x, y, y]: an endpoint stays until the last slice that has it lets it go."""
    shop.slice(POD, name="web-2")
    assert shop.done(1.0) == []
    shop.slice(POD, OTHER)
    shop.slice(OTHER, name="web-2")
    assert shop.done(2.0) == []
    shop.slice(OTHER)
    assert shop.done(3.0) == [("change", POD, 0)]
    shop.slice(OTHER, name="web-2")
    shop.idle(POD)
    assert shop.done(4.0) == [("remove", POD, 0)]


def test_terminating_endpoints_serve_as_long_as_no_other_is_left_and_drain_when_one_is(shop: Shop) -> None:
    shop.slice(f"{POD}:st", f"{OTHER}:st")
    assert shop.done(1.0) == []
    shop.slice(f"{POD}:st", f"{OTHER}:st", "10.244.1.9")
    assert sorted(shop.done(2.0)) == [("add", "10.244.1.9", 1), ("change", POD, 0), ("change", OTHER, 0)]
    shop.slice(f"{POD}:st", f"{OTHER}:st")
    assert sorted(shop.done(3.0)) == [("change", POD, 1), ("change", "10.244.1.9", 0), ("change", OTHER, 1)]


def test_scaled_to_zero_nobody_is_let_in_and_nobody_is_cut_off(shop: Shop) -> None:
    shop.slice()
    assert sorted(shop.done(1.0)) == [("change", POD, 0), ("change", OTHER, 0)]
    shop.slice("10.244.1.9")
    assert shop.done(2.0) == [("add", "10.244.1.9", 1)]
    shop.idle(POD)
    shop.idle(OTHER)
    assert sorted(shop.done(3.0)) == [("remove", POD, 0), ("remove", OTHER, 0)]


def test_what_a_deleted_service_had_goes_with_it(shop: Shop) -> None:
    shop.slice(OTHER)
    shop.done(1.0)
    shop.world.put(Deleted(ObjectRef("Service", "shop", "web")))
    assert sorted(shop.done(2.0)) == [("remove", POD, 0), ("remove", OTHER, 1)]
    assert shop.ended() == {"withdrawn": 1}
    assert not shop.draining()


def test_a_service_that_takes_over_an_address_lets_the_endpoints_of_the_other_drain() -> None:
    shop = Shop()
    shop.service("young")
    shop.slice(POD, service="young")
    shop.done(0.0)
    shop.service("a-is-first-by-name")
    shop.slice(OTHER, name="other-1", service="a-is-first-by-name")
    assert sorted(shop.done(1.0)) == [("add", OTHER, 1), ("change", POD, 0)]


@pytest.mark.parametrize(
    ("options", "protocol", "drains"),
    [
        ({}, "TCP", True),
        ({}, "SCTP", True),
        ({}, "UDP", False),
        ({"scheduler": "lc"}, "TCP", True),
        ({"scheduler": "dh"}, "TCP", False),
        ({"scheduler": "dh"}, "SCTP", False),
        ({"scheduler": "sh"}, "TCP", False),
        ({"scheduler": "mh"}, "TCP", False),
        ({"scheduler": "mh", "schedflags": "flag-2"}, "TCP", False),
        ({"scheduler": "mh", "schedflags": "flag-1,flag-2"}, "TCP", True),
    ],
)
def test_who_drains(options: dict[str, str], protocol: str, drains: bool) -> None:
    """UDP has no end to wait for, and schedulers that hash would refuse the clients of what has no weight."""
    shop = Shop()
    shop.service(protocol=protocol, **options)
    shop.slice(POD, OTHER, protocol=protocol)
    shop.done(0.0)
    (service,) = shop.world.table(VirtualService).values()
    assert bool(service.flags & FALLBACK) == ("flag-1" in options.get("schedflags", ""))
    shop.slice(OTHER, protocol=protocol)
    assert shop.done(1.0) == ([("change", POD, 0)] if drains else [("remove", POD, 1)])


def test_a_service_that_is_given_a_hashing_scheduler_drains_no_more(shop: Shop) -> None:
    shop.slice(OTHER)
    shop.done(1.0)
    shop.service(scheduler="dh")
    assert shop.done(2.0) == [("remove", POD, 0)]


def destination(address: str, weight: int, service: VirtualServiceKey | None = None) -> Destination:
    key = service or VirtualServiceKey(Family.IPV4, L4Protocol.TCP, ip_address(VIP).packed, 80)
    return Destination(DestinationKey(key, ip_address(address).packed, 8080), weight)


def test_a_restart_in_the_middle_goes_on_and_removes_what_has_weight_and_nobody_wants() -> None:
    before = [destination(POD, 0), destination(OTHER, 1), destination("10.244.1.9", 1), destination("10.244.1.8", 0)]
    kernel = Recorder(before)
    drivers: dict[type[Row], Any] = {row: MemoryDriver() for row in ROWS}
    drivers[Destination] = kernel
    shop = Shop(drivers=drivers, start=False)
    shop.kernel = kernel
    shop.service()
    shop.slice(OTHER, "10.244.1.8")
    done = shop.done(1.0) + shop.done(2.0)
    assert ("change", "10.244.1.8", 1) in done, "one that is wanted again is taken back"
    assert ("remove", "10.244.1.9", 1) in done
    assert len(done) == 2, done
    assert [str(ip_address(d.key.address)) for d in shop.draining()] == [POD]
    assert shop.done(30.0) == []
    assert shop.done(33.0) == [("remove", POD, 0)], "its time began anew"


def test_what_drains_is_known_only_when_services_and_endpoints_are() -> None:
    kernel = Recorder([destination(POD, 0), destination(OTHER, 1)])
    drivers: dict[type[Row], Any] = {row: MemoryDriver() for row in ROWS}
    drivers[Destination] = kernel
    shop = Shop(drivers=drivers, needs=("services", "endpointslices"))
    shop.kernel = kernel
    shop.service()
    shop.world.put(Synced("services"))
    assert shop.done(1.0) == [], "the kernel is read, and nothing is known yet"
    shop.slice("10.244.1.9")
    shop.world.put(Synced("endpointslices"))
    assert sorted(shop.done(2.0) + shop.done(3.0)) == [("add", "10.244.1.9", 1), ("remove", OTHER, 1)]
    assert [str(ip_address(d.key.address)) for d in shop.draining()] == [POD]


def compile_marked(key: Owner, view: ClusterView, *, node: NodeFacts, settings: object) -> Fragment:
    """A toy: each Service has a mark of its own, and its external addresses as endpoints."""
    del node, settings
    service = view.service(key.subject)
    if service is None:
        return Fragment()
    place = marked_service(Family.IPV4, int(service.created))
    rows = (Destination(DestinationKey(place, a, 0), 1, Forward.TUNNEL) for a in service.external_ips)
    return Fragment((VirtualService(place), *rows))


def dependents(change: Change, view: ClusterView) -> Iterable[Dirty]:
    del view
    yield "drain" if change.ref.kind == "Departed" else "marked", (change.ref,)


def test_b14_one_endpoint_of_two_fwmark_services_drains_in_each_on_its_own() -> None:
    departures = Departures(30.0)
    compilers = (("marked", compile_marked), ("drain", compile_drain))
    world = World([dependents], compilers, None, departures=departures)
    world.feed(node_bytes())

    def tell(name: str, mark: int, *endpoints: str) -> None:
        addresses = tuple(ip_address(address).packed for address in endpoints)
        ref = ObjectRef("Service", "shop", name)
        world.put(Upserted(Service(ref, float(mark), ServiceType.CLUSTER_IP, external_ips=addresses)))

    def weights() -> dict[int, int]:
        world.sync()
        return {key.service.mark: row.weight for key, row in world.table(Destination).items()}

    tell("a", 7, POD)
    tell("b", 8, POD)
    assert weights() == {7: 1, 8: 1}
    tell("a", 7)
    tell("b", 8)
    assert weights() == {7: 0, 8: 0}
    assert {row.forward for row in world.table(Destination).values()} == {Forward.TUNNEL}
    (first,) = [departed for departed in departures.draining() if departed.key.service.mark == 7]
    world.put(Deleted(first.ref))
    assert weights() == {8: 0}
    tell("a", 7, POD)
    assert weights() == {7: 1, 8: 0}
    world.now = 100.0
    assert weights() == {7: 1}
