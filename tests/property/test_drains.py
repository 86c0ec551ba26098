"""Draining: beside a node that does not drain, after any history; and from scratch with the same departures."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.model.cluster import (
    ClusterObject,
    Endpoint,
    EndpointCondition,
    EndpointSlice,
    Node,
    Service,
    ServiceOptions,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kuberouter.model.core import L4Protocol, ObjectRef
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.ipvs import FALLBACK, Destination, DestinationKey, VirtualService, can_drain
from kuberouter.model.settings import ProxySettings
from tests.support.examples import examples
from tests.support.world import NODE, ROWS, ProxyWorld

START = Node(ObjectRef("Node", "", NODE), internal_addresses=(ip_address("192.0.2.1").packed,))
VIPS = [ip_address(f"10.96.0.{n}").packed for n in (1, 2)]
PODS = [ip_address(f"10.244.0.{n}").packed for n in range(1, 4)]
SERVICES = [ObjectRef("Service", "shop", name) for name in ("a", "b")]
SLICES = [ObjectRef("EndpointSlice", "shop", f"slice-{n}") for n in range(2)]
READY = int(EndpointCondition.READY | EndpointCondition.SERVING)
SERVING = int(EndpointCondition.SERVING | EndpointCondition.TERMINATING)
PERIOD = 30.0
Step = Upserted | Deleted | int | float


def node(*, graceful: bool) -> ProxyWorld:
    world = ProxyWorld(ProxySettings(graceful=graceful, graceful_period=PERIOD))
    world.put(Upserted(START))
    return world


@st.composite
def services(draw: st.DrawFn, ref: ObjectRef | None = None) -> Service:
    protocol = draw(st.sampled_from((L4Protocol.TCP, L4Protocol.TCP, L4Protocol.SCTP, L4Protocol.UDP)))
    scheduler, flags = draw(st.sampled_from((*([("rr", 0)] * 4), ("dh", 0), ("mh", 0), ("mh", FALLBACK))))
    return Service(
        ref=ref or draw(st.sampled_from(SERVICES)),
        created=float(draw(st.integers(0, 1))),
        type=ServiceType.NODE_PORT,
        cluster_ips=tuple(draw(st.sampled_from((VIPS[:1], VIPS[:1], VIPS)))),
        ports=(ServicePort("http", protocol, 80, draw(st.sampled_from((0, 30080)))),),
        external_local=draw(st.booleans()),
        options=ServiceOptions(scheduler=scheduler, sched_flags=flags),
    )


@st.composite
def slices(draw: st.DrawFn, ref: ObjectRef | None = None) -> EndpointSlice:
    chosen = draw(st.lists(st.sampled_from(PODS), max_size=3, unique=True))
    conditions = st.sampled_from((READY, READY, READY, SERVING, 0))
    return EndpointSlice(
        ref=ref or draw(st.sampled_from(SLICES)),
        service=draw(st.sampled_from((SERVICES[0], SERVICES[0], SERVICES[0], SERVICES[1]))),
        ports=tuple(SlicePort("http", protocol, 8080) for protocol in L4Protocol),
        endpoints=tuple(Endpoint(a, draw(conditions), draw(st.sampled_from((NODE, "other")))) for a in chosen),
    )


@st.composite
def lives(draw: st.DrawFn) -> list[Step]:
    """Everything exists once, then things happen. A whole number means that one of the draining destinations is idle,
    a float that time passes.
    """
    some_slice = slices().map(Upserted)
    deleted = st.sampled_from([*SERVICES, *SLICES]).map(Deleted)
    passes = st.sampled_from((1.0, 15.0, 31.0))
    event = st.one_of(*([some_slice] * 5), services().map(Upserted), deleted, st.integers(0, 3), passes)
    first = [*(draw(services(ref)) for ref in SERVICES), *(draw(slices(ref)) for ref in SLICES)]
    return [*map(Upserted, first), *draw(st.lists(event, min_size=8, max_size=24))]


class Plain:
    """What has to drain, the slow way: from the destinations of a node that does not drain, before and after."""

    def __init__(self) -> None:
        self.world = node(graceful=False)
        self.draining: dict[DestinationKey, float] = {}

    @property
    def live(self) -> dict[Any, Destination]:
        return self.world.table(Destination)

    def follow(self, now: float) -> None:
        before = dict(self.live)
        self.world.sync()
        services = self.world.table(VirtualService)
        for key in before.keys() - self.live.keys():
            self.draining[key] = now
        for key, since in list(self.draining.items()):
            service = services.get(key.service)
            drains = service is not None and can_drain(service) and not self._udp_by_mark(key.service.mark)
            if key in self.live or not drains or now >= since + PERIOD:
                del self.draining[key]

    def _udp_by_mark(self, mark: int) -> bool:
        """The key of a virtual service by mark does not tell the protocol."""
        place = self.world.planner.cluster.marks.place(mark)
        return place is not None and place.protocol is L4Protocol.UDP


def check(world: ProxyWorld, plain: Plain) -> None:
    rows = world.table(Destination)
    assert {key for key, row in rows.items() if row.weight} == set(plain.live)
    assert {key for key, row in rows.items() if not row.weight} == set(plain.draining)
    assert world.departures is not None
    assert {departed.key: departed.since for departed in world.departures.draining()} == plain.draining
    for row in (row for row in ROWS if row is not Destination):
        assert world.table(row) == plain.world.table(row)


@examples(75)
@given(lives(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_road_leaves_what_serves_and_what_drains(life: list[Step], flush: int, dice: Any) -> None:
    world, plain = node(graceful=True), Plain()
    assert world.departures is not None
    for number, step in enumerate(life):
        if isinstance(step, float):
            world.now += step
        elif isinstance(step, int):
            idle = world.departures.draining()[step : step + 1]
            for departed in idle:
                world.put(Deleted(departed.ref))
                plain.draining.pop(departed.key, None)
        else:
            world.put(step)
            plain.world.put(step)
        if number % flush == 0 or not isinstance(step, Upserted | Deleted):
            world.sync()
            plain.follow(world.now)
            check(world, plain)
    world.sync()
    plain.follow(world.now)
    check(world, plain)
    assert world.sync() == 0

    objects: dict[ObjectRef, ClusterObject] = {departed.ref: departed for departed in world.departures.draining()}
    for step in life:
        if isinstance(step, Upserted):
            objects[step.obj.ref] = step.obj
        elif isinstance(step, Deleted):
            objects.pop(step.ref, None)
    everything = list(objects.values())
    dice.shuffle(everything)
    scratch = node(graceful=True)
    scratch.now = world.now
    for obj in everything:
        scratch.put(Upserted(obj))
    scratch.sync()
    for row in ROWS:
        assert scratch.table(row) == world.table(row)
