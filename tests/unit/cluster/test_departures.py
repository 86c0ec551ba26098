"""Departed destinations by service, and how long the pods at an address may take."""

from __future__ import annotations

from kuberouter.cluster.departures import DepartureIndex, GraceIndex, depart
from kuberouter.model.cluster import Pod
from kuberouter.model.core import Family, L4Protocol, ObjectRef
from kuberouter.model.ipvs import Destination, DestinationKey, VirtualServiceKey, marked_service

HOST = bytes((192, 0, 2, 1))


def destination(service: VirtualServiceKey, last: int) -> Destination:
    return Destination(DestinationKey(service, bytes((10, 244, 0, last)), 8080))


def pod(name: str, grace: int, *addresses: bytes, finished: bool = False) -> Pod:
    return Pod(ObjectRef("Pod", "shop", name), "", (), addresses, finished=finished, grace=grace)


def test_departures_are_found_by_key_and_by_service() -> None:
    index = DepartureIndex()
    vip = VirtualServiceKey(Family.IPV4, L4Protocol.TCP, bytes((10, 96, 0, 1)), 80)
    first, second = depart(destination(vip, 1), 1.0), depart(destination(vip, 2), 1.0)
    other = depart(destination(marked_service(Family.IPV4, 7), 1), 1.0)
    for each in (first, second, other):
        index.update(None, each)
    assert len(index) == 3
    assert index.at(first.key) is first
    assert set(index.of(vip)) == {first, second}
    index.update(first, None)
    index.update(second, None)
    assert index.at(first.key) is None
    assert index.of(vip) == []
    assert index.all() == (other,)
    assert len({first.ref, second.ref, other.ref, depart(destination(vip, 1), 2.0).ref}) == 4


def test_at_an_address_the_longest_grace_period_counts() -> None:
    index = GraceIndex()
    first, second = pod("a", 10, HOST), pod("b", 60, HOST, b"\xfd" + bytes(15))
    assert index.at(HOST) is None
    index.update(None, first)
    index.update(None, second)
    assert index.at(HOST) == 60
    longer = pod("a", 90, HOST)
    index.update(first, longer)
    assert index.at(HOST) == 90
    index.update(second, pod("b", 60, finished=True))
    index.update(longer, pod("a", 90, HOST, finished=True))
    assert index.at(HOST) is None
    assert index.at(b"\xfd" + bytes(15)) is None
