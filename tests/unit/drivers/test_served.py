"""Which services are told of as served by others now."""

from __future__ import annotations

from collections.abc import Collection

from kuberouter.drivers.served import Served, Serving
from kuberouter.model.core import Batch, Family, L4Protocol
from kuberouter.model.ipvs import Destination, DestinationKey, VirtualServiceKey, marked_service

DNS = VirtualServiceKey(Family.IPV4, L4Protocol.UDP, bytes((10, 96, 0, 10)), 53)
WEB = VirtualServiceKey(Family.IPV4, L4Protocol.TCP, bytes((10, 96, 0, 10)), 80)
MARKED = marked_service(Family.IPV4, 7)


def row(service: VirtualServiceKey, last: int, weight: int = 1) -> Destination:
    return Destination(DestinationKey(service, bytes((10, 244, 0, last)), 8080), weight)


class Ear:
    """Hears who moved and by whom it is served then."""

    def __init__(self) -> None:
        self.served = Served(self.hear)
        self.heard: list[tuple[VirtualServiceKey, set[int]]] = []
        self.where: list[set[bytes]] = []

    def hear(self, service: VirtualServiceKey, serving: Serving, addresses: Collection[bytes]) -> None:
        self.heard.append((service, {address[-1] for address, _ in serving.get(service, ())}))
        self.where.append(set(addresses))

    def wrote(self, batch: Batch[Destination], *failed: Destination) -> list[tuple[VirtualServiceKey, set[int]]]:
        self.heard = []
        self.served.wrote(batch, {row.key for row in failed})
        return self.heard


def test_coming_into_service_and_losing_a_destination_are_told() -> None:
    ear = Ear()
    assert ear.wrote(Batch((row(DNS, 1), row(DNS, 2), row(WEB, 1)))) == [(DNS, {1, 2})]
    assert ear.wrote(Batch((row(DNS, 3),))) == [], "one more changes nothing for the flows that there are"
    assert ear.wrote(Batch(change=((row(DNS, 3), row(DNS, 3, 5)),))) == []
    assert ear.wrote(Batch(remove=(row(DNS, 1), row(WEB, 1)))) == [(DNS, {2, 3})]
    assert ear.wrote(Batch((row(DNS, 4),), remove=(row(DNS, 2),))) == [(DNS, {3, 4})]
    assert ear.wrote(Batch(remove=(row(DNS, 3), row(DNS, 4)))) == [(DNS, set())], "scaled to zero"
    assert ear.wrote(Batch((row(DNS, 5),))) == [(DNS, {5})], "and back"


def test_services_by_mark_may_be_of_udp() -> None:
    ear = Ear()
    assert ear.wrote(Batch((row(MARKED, 1),))) == [(MARKED, {1})]
    assert ear.wrote(Batch(remove=(row(MARKED, 1),))) == [(MARKED, set())]


def test_what_fails_has_not_happened() -> None:
    ear = Ear()
    assert ear.wrote(Batch((row(DNS, 1),)), row(DNS, 1)) == []
    assert ear.wrote(Batch((row(DNS, 1),))) == [(DNS, {1})]
    assert ear.wrote(Batch(remove=(row(DNS, 1),)), row(DNS, 1)) == []
    assert ear.wrote(Batch((row(DNS, 2),))) == []


def test_what_is_found_at_a_start_is_no_news() -> None:
    ear = Ear()
    ear.served.read([row(DNS, 1), row(WEB, 1), row(MARKED, 1)])
    assert ear.heard == []
    assert ear.wrote(Batch((row(DNS, 2),))) == []
    assert ear.wrote(Batch(remove=(row(DNS, 1),))) == [(DNS, {2})]
    ear.served.read([])
    assert ear.wrote(Batch((row(DNS, 2),))) == [(DNS, {2})], "somebody has cleared the table"


def test_services_at_an_address_that_has_become_the_nodes_own_are_told() -> None:
    ear = Ear()
    other = VirtualServiceKey(Family.IPV4, L4Protocol.UDP, bytes((10, 96, 0, 11)), 53)
    second = VirtualServiceKey(Family.IPV4, L4Protocol.UDP, DNS.address, 54)
    ear.wrote(Batch((row(DNS, 1), row(second, 2), row(other, 3), row(WEB, 1), row(MARKED, 4))))
    assert ear.where == [set()] * 4, "all their addresses"

    def arrive(*addresses: bytes) -> list[tuple[VirtualServiceKey, set[int]]]:
        ear.heard, ear.where = [], []
        ear.served.arrived(addresses)
        assert all(where == set(addresses) for where in ear.where)
        return ear.heard

    assert arrive(DNS.address) == [(DNS, {1}), (second, {2}), (MARKED, {4})]
    assert arrive(DNS.address, other.address) == [(DNS, {1}), (second, {2}), (other, {3}), (MARKED, {4})]
    assert arrive(bytes((10, 96, 0, 12))) == [(MARKED, {4})], "a mark does not say where it is met"
    ear.wrote(Batch(remove=(row(DNS, 1), row(MARKED, 4))))
    assert arrive(DNS.address) == [(second, {2})]
    ear.wrote(Batch(remove=(row(second, 2),)))
    assert arrive(DNS.address) == []
    ear.served.read([row(DNS, 7)])
    assert arrive(DNS.address, other.address) == [(DNS, {7})]
