"""What the proxy brings along for endpoints that go: their connections, and the UDP flows that outlive them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kuberouter.cluster.allocations import ANYWHERE
from kuberouter.cluster.view import ClusterView
from kuberouter.daemon.metrics import Series, series
from kuberouter.daemon.parts.part import Part
from kuberouter.daemon.worker import Worker
from kuberouter.decode.node import decode_pod_end
from kuberouter.drivers.conntrack import Endpoints, StaleFlows
from kuberouter.drivers.served import Served, Serving
from kuberouter.engine.departures import INHERITED, Departures
from kuberouter.model.cluster import MarkedPlace, MarkUse
from kuberouter.model.core import L4Protocol, family_of
from kuberouter.model.ipvs import Destination, VirtualServiceKey, marked_service
from kuberouter.model.settings import ProxySettings
from kuberouter.sources.connections import ConnectionSource


def follow_flows(part: Part) -> Served:
    """Has stale flows of UDP services forgotten. Returns what is to follow destinations and addresses."""
    flows = StaleFlows()
    part.sources.append(Worker("stale flows", flows.work, "stale flows of UDP services are not found"))
    part.shows.append(lambda: [series("udp_stale_flows_removed_total", flows.removed)])

    def moved(service: VirtualServiceKey, serving: Serving, addresses: Collection[bytes]) -> None:
        for place, endpoints in in_question(service, serving, addresses, part.view()):
            flows.check(place, endpoints)

    return Served(moved)


def in_question(
    service: VirtualServiceKey, serving: Serving, addresses: Collection[bytes], view: ClusterView
) -> Iterator[tuple[VirtualServiceKey, Endpoints]]:
    """Where flows are to be looked at when a service has moved, and who may answer there; see `Moved`."""
    for place in places(service, view):
        if not addresses or place.address in addresses:
            yield place, frozenset(who for other in services(place, view) for who in serving.get(other, ()))


def places(service: VirtualServiceKey, view: ClusterView) -> Iterator[VirtualServiceKey]:
    """The addresses and ports of UDP at which a virtual service answers some of the clients.

    A node port has one mark for all addresses of the node. Flows to who answers directly are not translated, and so
    nobody can be remembered for them wrongly.
    """
    if not service.mark:
        yield service
        return
    place = view.marks.place(service.mark)
    if place is None or place.protocol is not L4Protocol.UDP or place.use is not MarkUse.INSIDE:
        return
    for address in _own(view) if place.address == ANYWHERE else (place.address,):
        if family_of(address) is service.family:
            yield VirtualServiceKey(service.family, place.protocol, address, place.port)


def services(place: VirtualServiceKey, view: ClusterView) -> Iterator[VirtualServiceKey]:
    """The virtual services that answer at an address and port of UDP: that of the address, and those by mark."""
    yield place
    for address in (place.address, *((ANYWHERE,) if place.address in _own(view) else ())):
        mark = view.marks.mark(MarkedPlace(address, place.protocol, place.port, MarkUse.INSIDE))
        if mark:
            yield marked_service(place.family, mark)


def _own(view: ClusterView) -> tuple[bytes, ...]:
    node = view.node
    return tuple(dict.fromkeys((*node.addresses, *node.local_addresses))) if node is not None else ()


def drain(part: Part, settings: ProxySettings) -> None:
    """What it takes to let endpoints that go keep their connections."""
    departures = Departures(settings.graceful_period, part.needs)
    connections = ConnectionSource(departures.draining)
    # Pods only say how long they may take to end: who does not grant them gets the period of the flag.
    part.watched = (*part.watched, "pods")
    part.brief = {"pods": decode_pod_end}
    part.sources.append(connections)
    part.history = departures
    part.inherit = {Destination: departures.inherit}
    part.removals_await = {**part.removals_await, Destination: INHERITED}

    def show() -> Iterator[Series]:
        yield series("draining_destinations", len(departures.draining()))
        ended = {(how,): count for how, count in departures.ended.items()}
        yield series("drains_total", {**ended, ("idle",): connections.idle})

    part.shows.append(show)
