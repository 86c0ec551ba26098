"""Firewall marks: the hash with its vectors, never 0, never two places with one, and the same after a restart."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import islice

import msgspec
import pytest

from kuberouter.cluster.allocations import ANYWHERE, MARK_MASK, MarkIndex, candidates, marked_places
from kuberouter.model.cluster import KnownMark, MarkedPlace, MarkUse, Service, ServiceOptions, ServicePort, ServiceType
from kuberouter.model.core import L4Protocol, ObjectRef


def place(address: str, protocol: L4Protocol = L4Protocol.TCP, port: int = 80) -> MarkedPlace:
    return MarkedPlace(ip_address(address).packed, protocol, port)


def service(name: str, *places: MarkedPlace, dsr: bool = True) -> Service:
    ports = tuple(ServicePort(str(p.port), p.protocol, p.port) for p in dict.fromkeys(places))
    return Service(
        ObjectRef("Service", "default", name),
        1.0,
        ServiceType.CLUSTER_IP,
        (bytes((10, 96, 0, 1)),),
        external_ips=tuple(dict.fromkeys(p.address for p in places)),
        ports=tuple({(p.protocol, p.port): p for p in ports}.values()),
        options=ServiceOptions(dsr=dsr),
    )


def known(mark: int, found: MarkedPlace | None) -> KnownMark:
    return KnownMark(ObjectRef("KnownMark", "", f"{mark}-{found}"), mark, found)


TCP, UDP = place("147.160.180.44", port=8080), place("147.160.180.44", L4Protocol.UDP, 80)
"""Their hashes collide at 15688; the second choice of the latter is 842."""


@pytest.mark.parametrize(
    ("wanted", "marks"),
    [
        (place("10.255.0.1"), [9054]),
        (place("1.1.1.1", port=8080), [3298]),
        (place("1.1.1.1", port=9090), [6138]),
        (place("2001:db8::1", port=443), [9129]),
        (TCP, [15688]),
        (UDP, [15688, 842]),
    ],
)
def test_marks_are_those_of_the_go_kube_router(wanted: MarkedPlace, marks: list[int]) -> None:
    assert list(islice(candidates(wanted), len(marks))) == marks


def test_b10_mark_0_is_never_given_out() -> None:
    # The hash of this one is 0.
    nothing = place("198.51.67.168")
    index = MarkIndex()
    index.update(None, service("a", nothing))
    assert 0 < index.mark(nothing) <= MARK_MASK


def test_b10_the_search_ends_when_every_mark_is_taken_and_goes_on_when_one_is_free() -> None:
    index = MarkIndex()
    for mark in range(1, MARK_MASK + 1):
        index.update(None, known(mark, place("192.0.2.1", port=mark)))
    asking = service("a", TCP)
    index.update(None, asking)
    assert index.mark(TCP) == 0
    owner = service("b", place("192.0.2.1", port=77))
    index.update(None, owner)
    assert index.mark(place("192.0.2.1", port=77)) == 77

    crowded = MarkIndex()
    many = [service(str(n), MarkedPlace(bytes((10, 9, n >> 8, n & 255)), L4Protocol.TCP, 80)) for n in range(MARK_MASK)]
    for each in many:
        crowded.update(None, each)
    assert len({crowded.mark(p) for each in many for p in marked_places(each)}) == MARK_MASK
    crowded.update(None, asking)
    assert crowded.mark(TCP) == 0
    crowded.update(many[5], None)
    assert crowded.mark(TCP)
    assert crowded.moved == {asking.ref}


def test_colliding_places_get_different_marks_and_the_first_keeps_its_own() -> None:
    for first, second, expected in ((TCP, UDP, (15688, 842)), (UDP, TCP, None)):
        index = MarkIndex()
        index.update(None, service("a", first))
        index.update(None, service("b", second))
        assert index.mark(first) == 15688
        assert index.mark(second) not in (0, 15688)
        assert expected is None or (index.mark(first), index.mark(second)) == expected


def test_b08_a_mark_that_the_kernel_has_stays_with_its_place_whoever_asks_first() -> None:
    before = MarkIndex()
    before.update(None, service("b", UDP))
    before.update(None, service("a", TCP))
    marks = {p: before.mark(p) for p in (TCP, UDP)}
    steps = [service("a", TCP), service("b", UDP), known(marks[TCP], TCP), known(marks[UDP], UDP)]
    for order in ((0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 3, 1), (3, 2, 0, 1), (1, 0, 3, 2)):
        after = MarkIndex()
        for step in order:
            after.update(None, steps[step])
        assert {p: after.mark(p) for p in (TCP, UDP)} == marks


def test_a_mark_of_somebody_else_is_left_to_them() -> None:
    index = MarkIndex()
    asking = service("a", TCP)
    index.update(None, asking)
    assert index.mark(TCP) == 15688
    index.update(None, known(15688, None))
    assert index.mark(TCP) not in (0, 15688)
    assert index.moved == {asking.ref}


def test_two_services_share_the_mark_of_a_place_until_the_last_leaves() -> None:
    index = MarkIndex()
    one, two = service("a", TCP), service("b", TCP)
    index.update(None, one)
    index.update(None, two)
    index.update(one, None)
    assert index.mark(TCP) == 15688
    index.update(two, service("b", TCP, dsr=False))
    assert index.mark(TCP) == 0
    index.update(None, service("c", UDP))
    assert index.mark(UDP) == 15688
    assert (index.place(15688), index.place(842)) == (UDP, None)


def test_uses_of_one_place_have_marks_of_their_own() -> None:
    inside = MarkedPlace(TCP.address, TCP.protocol, TCP.port, MarkUse.INSIDE)
    assert next(candidates(inside)) != next(candidates(TCP))


def test_an_external_policy_asks_for_marks_for_clients_inside_and_node_ports_share_one() -> None:
    ports = (ServicePort("a", L4Protocol.TCP, 80, 30080), ServicePort("b", L4Protocol.UDP, 53))
    external, balanced = ip_address("198.51.100.7").packed, ip_address("203.0.113.7").packed
    plain = Service(
        ObjectRef("Service", "default", "web"),
        1.0,
        ServiceType.LOAD_BALANCER,
        (bytes((10, 96, 0, 1)),),
        (external,),
        (balanced,),
        ports,
    )
    assert marked_places(plain) == frozenset()
    inside = {
        MarkedPlace(address, port.protocol, port.port, MarkUse.INSIDE)
        for address in (external, balanced)
        for port in ports
    } | {MarkedPlace(ANYWHERE, L4Protocol.TCP, 30080, MarkUse.INSIDE)}
    local = msgspec.structs.replace(plain, external_local=True)
    assert marked_places(local) == inside
    assert marked_places(msgspec.structs.replace(plain, options=ServiceOptions(local=True))) == inside
    both = msgspec.structs.replace(local, options=ServiceOptions(dsr=True))
    assert marked_places(both) == inside | {
        MarkedPlace(address, port.protocol, port.port) for address in (external, balanced) for port in ports
    }
    assert marked_places(msgspec.structs.replace(local, cluster_ips=())) == frozenset()
    index = MarkIndex()
    index.update(None, local)
    marks = {index.mark(place) for place in inside}
    assert len(marks) == len(inside)
    assert 0 not in marks
    assert not index.used, "that is for direct return"
    assert list(index.users()) == []
    index.update(local, both)
    assert {index.mark(place) for place in inside} == marks, "whoever stays keeps its mark"
    assert index.used
    assert list(index.users()) == [local.ref]
