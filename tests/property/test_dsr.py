"""Direct server return: any road to a state of the cluster ends in the same rows, in pods too."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.model.cluster import (
    ClusterObject,
    Endpoint,
    EndpointSlice,
    LocalPod,
    Node,
    Service,
    ServiceOptions,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kuberouter.model.core import Family, L4Protocol, ObjectRef
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.receivers import PodReceiver, PodReceiverKey
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.examples import examples
from tests.support.world import NODE, ROWS, ProxyWorld

SETTINGS = ProxySettings(addresses=AddressRules(strict=False), runtime_endpoint="unix:///run/cri.sock")
FAMILIES = (Family.IPV4, Family.IPV6)
VIPS = [ip_address(a).packed for a in ("10.255.0.1", "10.255.0.2", "2001:db8:100::1", "192.0.2.2")]
"""The last one is the address of a node as long as that exists."""
PODS = [ip_address(a).packed for a in ("10.244.0.1", "10.244.0.2", "fd44::1")]
SERVICES = [ObjectRef("Service", "shop", name) for name in ("a", "b")]
SLICES = [ObjectRef("EndpointSlice", "shop", f"slice-{n}") for n in range(3)]
LOCAL = [ObjectRef("LocalPod", "shop", f"pod-{n}") for n in range(2)]
OTHER = Node(ObjectRef("Node", "", "other"), internal_addresses=(VIPS[3],))
START = Node(
    ObjectRef("Node", "", NODE), internal_addresses=tuple(ip_address(a).packed for a in ("192.0.2.1", "2001:db8::1"))
)


@st.composite
def services(draw: st.DrawFn, ref: ObjectRef | None = None) -> Service:
    ref = ref or draw(st.sampled_from(SERVICES))
    return Service(
        ref=ref,
        created=float(draw(st.integers(0, 1))),
        type=ServiceType.CLUSTER_IP,
        cluster_ips=tuple(ip_address(f"{net}{1 + SERVICES.index(ref)}").packed for net in ("10.96.0.", "fd96::")),
        external_ips=tuple(draw(st.lists(st.sampled_from(VIPS), max_size=2, unique=True))),
        load_balancer_ips=tuple(draw(st.lists(st.sampled_from(VIPS), max_size=1))),
        ports=(ServicePort("http", L4Protocol.TCP, draw(st.sampled_from((80, 81)))),),
        options=ServiceOptions(
            scheduler=draw(st.sampled_from(("rr", "mh"))),
            skip_lb_ips=draw(st.booleans()),
            dsr=draw(st.sampled_from((True, True, False))),
        ),
    )


@st.composite
def slices(draw: st.DrawFn, ref: ObjectRef | None = None) -> EndpointSlice:
    chosen = draw(st.sampled_from((PODS[:1], PODS[:2], PODS[1:2], PODS[2:], [VIPS[3], PODS[0]], [])))
    return EndpointSlice(
        ref=ref or draw(st.sampled_from(SLICES)),
        service=draw(st.sampled_from(SERVICES)),
        ports=(SlicePort("http", L4Protocol.TCP, draw(st.sampled_from((80, 8080)))),),
        endpoints=tuple(Endpoint(a, draw(st.sampled_from((3, 0))), draw(st.sampled_from((NODE, "x")))) for a in chosen),
    )


@st.composite
def pods(draw: st.DrawFn, ref: ObjectRef | None = None) -> LocalPod:
    ref = ref or draw(st.sampled_from(LOCAL))
    own = ((PODS[0], PODS[2]), (PODS[1],))[LOCAL.index(ref)]
    return LocalPod(
        ref,
        draw(st.sampled_from((NODE, NODE, "x"))),
        draw(st.sampled_from((own, own, own[:1], ()))),
        draw(st.sampled_from(("c1", "c2", ""))),
        draw(st.sampled_from((False, False, True))),
    )


deletions = st.sampled_from([*SERVICES, *SLICES, *LOCAL, OTHER.ref]).map(Deleted)
event = st.one_of(
    services().map(Upserted), slices().map(Upserted), pods().map(Upserted), deletions, st.just(Upserted(OTHER))
)


@st.composite
def histories(draw: st.DrawFn) -> list[Upserted | Deleted]:
    first = [draw(services(r)) for r in SERVICES], [draw(slices(r)) for r in SLICES], [draw(pods(r)) for r in LOCAL]
    return [*(Upserted(obj) for objects in first for obj in objects), *draw(st.lists(event, max_size=12))]


def fresh() -> ProxyWorld:
    world = ProxyWorld(SETTINGS, FAMILIES)
    world.put(Upserted(START))
    return world


def final(history: Sequence[Upserted | Deleted]) -> dict[ObjectRef, ClusterObject]:
    found: dict[ObjectRef, ClusterObject] = {START.ref: START}
    for each in history:
        if isinstance(each, Upserted):
            found[each.obj.ref] = each.obj
        else:
            found.pop(each.ref, None)
    return found


def kernel(world: ProxyWorld) -> dict[type, Any]:
    """All rows; settings apart that go back to what they were, for only who had them on puts them back."""
    return {
        row: {key: value for key, value in world.table(row).items() if getattr(value, "value", "") != "0"}
        for row in ROWS
    }


def expected_receivers(objects: list[ClusterObject]) -> set[PodReceiver]:
    """Who receives for what, the plain way."""
    taken: set[tuple[bytes, int]] = set()
    direct: dict[ObjectRef, set[bytes]] = {}
    nodes = {a for o in objects if isinstance(o, Node) for a in o.internal_addresses}
    for service in sorted((o for o in objects if isinstance(o, Service)), key=lambda s: (s.created, s.ref.name)):
        for vip in (*(() if service.options.skip_lb_ips else service.load_balancer_ips), *service.external_ips):
            if (vip, service.ports[0].port) not in taken and service.options.dsr and vip not in nodes:
                direct.setdefault(service.ref, set()).add(vip)
        vips = (*(() if service.options.skip_lb_ips else service.load_balancer_ips), *service.external_ips)
        taken |= {(vip, service.ports[0].port) for vip in vips}
    return {
        PodReceiver(PodReceiverKey(address, vip), pod.container)
        for pod in objects
        if isinstance(pod, LocalPod) and pod.node == NODE and pod.container and not pod.host_network
        for address in pod.addresses
        for found in objects
        if isinstance(found, EndpointSlice) and any(e.address == address and e.node == NODE for e in found.endpoints)
        for vip in direct.get(found.service, ())
        if len(vip) == len(address)
    }


@examples(75)
@given(histories(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_road_ends_in_the_same_rows_and_receivers(history: list[Upserted | Deleted], flush: int, dice: Any) -> None:
    world = fresh()
    for number, each in enumerate(history):
        world.put(each)
        if number % flush == 0:
            world.sync()
            objects = list(final(history[: number + 1]).values())
            assert set(world.table(PodReceiver).values()) == expected_receivers(objects)
    world.sync()
    objects = list(final(history).values())
    assert set(world.table(PodReceiver).values()) == expected_receivers(objects)
    scratch = fresh()
    dice.shuffle(objects)
    for obj in objects:
        scratch.put(Upserted(obj))
    scratch.sync()
    assert kernel(world) == kernel(scratch)
    assert set(world.journal.standing) == set(scratch.journal.standing)
    assert world.sync() == 0
