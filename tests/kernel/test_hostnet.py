"""What the host's netlink notices tell: addresses of links, and losses of ours that others caused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.drivers.network import LinkDriver, RouteDriver
from kuberouter.model.cluster import ClusterObject, ForeignRoute, Interface
from kuberouter.model.core import Prefix
from kuberouter.model.events import Deleted, Drifted, Event, Synced, Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.network import (
    TABLE_MAIN,
    Address,
    AddressKey,
    Link,
    LinkKey,
    LinkKind,
    LocalRoute,
    LocalRouteKey,
    PolicyRule,
    Route,
    RouteKey,
)
from kuberouter.sources.hostnet import HostSource
from tests.kernel.drive import converge, owned, sh

pytestmark = pytest.mark.root

BRIDGE = Link(LinkKey("kube-bridge"), LinkKind.BRIDGE, 1480)


def ours(name: str) -> bool:
    return name.startswith("kube-")


class Heard:
    """An inbox that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def put(self, event: Event) -> None:
        self.events.append(event)

    def wait(self, condition: Callable[[list[Event]], bool]) -> None:
        end = time.monotonic() + 10
        while not condition(self.events):
            assert time.monotonic() < end, self.events
            time.sleep(0.01)

    @property
    def drift(self) -> list[type]:
        """Tables that lost something; a link of ours that appears is another thing."""
        return [event.table for event in self.events if isinstance(event, Drifted) and event.table is not Sysctl]


@pytest.fixture
def heard(namespace: str) -> Iterator[Heard]:
    """A source that watches the test's namespace, in sync."""
    del namespace
    heard, stop = Heard(), threading.Event()
    source = HostSource(ours)
    thread = threading.Thread(target=source.run, args=(heard, stop))
    thread.start()
    try:
        heard.wait(lambda events: Synced(source.name) in events)
        yield heard
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def route(destination: str) -> Route:
    network = ip_network(destination)
    key = RouteKey(TABLE_MAIN, Prefix(network.network_address.packed, network.prefixlen))
    return Route(key, (ip_address("192.0.2.9").packed,))


def held(obj: ClusterObject) -> set[bytes]:
    """The addresses of a link."""
    return {each.address for each in obj.addresses} if isinstance(obj, Interface) else set()


def seen(heard: Heard, address: str) -> None:
    """Wait until an address that was just put on the bridge is told; notices come in order."""
    sh("ip", "addr", "add", f"{address}/24", "dev", "kube-bridge")
    packed = ip_address(address).packed
    heard.wait(lambda events: any(isinstance(e, Upserted) and packed in held(e.obj) for e in events))


def test_what_others_take_away_is_drift(heard: Heard) -> None:
    assert converge(LinkDriver(("kube-bridge",)), [BRIDGE]) == {}
    seen(heard, "192.0.2.1")
    assert converge(RouteDriver((TABLE_MAIN,)), [route("10.1.0.0/24")]) == {}
    assert heard.drift == []
    sh("ip", "route", "del", "10.1.0.0/24")
    heard.wait(lambda _: Route in heard.drift)
    sh("ip", "rule", "add", "from", "10.9.0.0/16", "lookup", "77")
    sh("ip", "rule", "del", "from", "10.9.0.0/16")
    heard.wait(lambda _: PolicyRule in heard.drift)
    sh("ip", "link", "del", "kube-bridge")
    heard.wait(lambda _: Link in heard.drift)


def test_what_we_take_away_ourselves_is_no_news(heard: Heard) -> None:
    assert converge(LinkDriver(("kube-bridge",)), [BRIDGE]) == {}
    seen(heard, "192.0.2.1")
    routes = RouteDriver((TABLE_MAIN,))
    assert converge(routes, [route("10.1.0.0/24"), route("10.2.0.0/24")]) == {}
    assert converge(routes, [route("10.2.0.0/24")]) == {}
    seen(heard, "192.0.3.1")
    assert heard.drift == []
    # The other one is still watched.
    sh("ip", "route", "del", "10.2.0.0/24")
    heard.wait(lambda _: heard.drift == [Route])


def test_a_link_of_ours_that_appears_has_settings_to_look_at(heard: Heard) -> None:
    assert not any(isinstance(event, Drifted) for event in heard.events)
    assert converge(LinkDriver(("kube-bridge",)), [BRIDGE]) == {}
    heard.wait(lambda events: Drifted(Sysctl) in events)
    sh("ip", "link", "add", "theirs", "type", "bridge")
    seen(heard, "192.0.2.1")
    assert sum(event == Drifted(Sysctl) for event in heard.events) == 1


@pytest.mark.parametrize(
    "words", ["ip addr flush dev kube-bridge", "ip link del kube-bridge", "ip link set kube-bridge down"]
)
def test_what_goes_with_a_link_is_drift_too(heard: Heard, words: str) -> None:
    assert converge(LinkDriver(("kube-bridge",)), [BRIDGE]) == {}
    rows = [
        Address(AddressKey("kube-bridge", ip_address(a).packed, n)) for a, n in (("10.96.0.1", 32), ("fd96::1", 128))
    ]
    assert converge(AddressDriver(("kube-bridge",)), rows) == {}
    seen(heard, "192.0.2.1")
    assert heard.drift == []
    sh(*words.split())
    heard.wait(lambda _: Address in heard.drift)
    if "link" in words:
        heard.wait(lambda _: {Link, Address, Route} <= set(heard.drift))


def test_a_local_route_that_others_delete_is_drift(heard: Heard) -> None:
    rows = [LocalRoute(LocalRouteKey(ip_address(a).packed)) for a in ("10.96.0.1", "fd96::1")]
    assert converge(LocalRouteDriver(), rows) == {}
    for words in ("ip route del local 10.96.0.1 table local", "ip -6 route del local fd96::1 table local"):
        heard.events.clear()
        sh(*words.split())
        heard.wait(lambda _: LocalRoute in heard.drift)


@pytest.fixture
def router(namespace: str) -> Iterator[Heard]:
    """A source that tells of the routes of others as well, on a host with an uplink."""
    for words in ("link add up0 type bridge", "link set up0 up", "addr add 192.0.2.1/24 dev up0"):
        sh("ip", *words.split())
    sh("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.7", "proto", "static")
    heard, stop = Heard(), threading.Event()
    thread = threading.Thread(target=HostSource(ours, routes=True).run, args=(heard, stop))
    thread.start()
    try:
        heard.wait(lambda events: Synced("interfaces") in events)
        yield heard
    finally:
        stop.set()
        thread.join(10)


def foreign(heard: Heard) -> dict[str, str]:
    """The routes of others, as last told."""
    found: dict[str, str] = {}
    for event in list(heard.events):
        if isinstance(event, Upserted) and isinstance(event.obj, ForeignRoute):
            found[event.obj.ref.name] = event.obj.text
        elif isinstance(event, Deleted) and event.ref.kind == "ForeignRoute":
            del found[event.ref.name]
    return found


def test_routes_of_others_are_told_as_they_come_and_go(router: Heard) -> None:
    start = {
        "192.0.2.0/24": "dev up0 proto kernel",
        "198.51.100.0/24": "via 192.0.2.7 dev up0 proto static",
    }
    assert {name: text for name, text in foreign(router).items() if ":" not in name} == start
    sh("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.8", "metric", "50")
    sh("ip", "route", "add", "blackhole", "203.0.113.0/24")
    sh("ip", "-6", "route", "add", "2001:db8:9::/48", "dev", "up0")
    both = "via 192.0.2.7 dev up0 proto static; via 192.0.2.8 dev up0 proto boot"
    router.wait(lambda _: foreign(router).get("198.51.100.0/24") == both)
    assert foreign(router)["203.0.113.0/24"] == "blackhole proto boot"
    assert foreign(router)["2001:db8:9::/48"] == "dev up0 proto boot"
    sh("ip", "route", "del", "198.51.100.0/24", "metric", "50")
    router.wait(lambda _: foreign(router).get("198.51.100.0/24") == start["198.51.100.0/24"])
    # Of what goes with a link the kernel tells nothing.
    sh("ip", "link", "set", "up0", "down")
    router.wait(lambda _: [name for name in foreign(router) if ":" not in name] == ["203.0.113.0/24"])
    sh("ip", "link", "set", "up0", "up")
    router.wait(lambda _: "192.0.2.0/24" in foreign(router))


def test_our_routes_are_none_of_others(router: Heard) -> None:
    routes = RouteDriver((TABLE_MAIN,))
    assert converge(routes, [route("10.1.0.0/24")]) == {}
    sh("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.7")
    router.wait(lambda _: "203.0.113.0/24" in foreign(router))
    assert "10.1.0.0/24" not in foreign(router)
    assert router.drift == []


def test_a_route_of_ours_that_others_change_is_drift(router: Heard) -> None:
    routes = RouteDriver((TABLE_MAIN,))
    assert converge(routes, [route("10.1.0.0/24")]) == {}
    sh("ip", "route", "replace", "10.1.0.0/24", "via", "192.0.2.7", "proto", "17")
    router.wait(lambda _: router.drift == [Route])
    assert converge(routes, [route("10.1.0.0/24")]) == {}
    sh("ip", "route", "replace", "10.1.0.0/24", "via", "192.0.2.7")
    router.wait(lambda _: "10.1.0.0/24" in foreign(router))


def test_a_link_that_comes_back_may_lack_routes_of_ours(router: Heard) -> None:
    routes = RouteDriver((TABLE_MAIN,))
    assert converge(routes, [route("10.1.0.0/24")]) == {}
    sh("ip", "link", "set", "up0", "down")
    sh("ip", "link", "set", "up0", "up")
    router.wait(lambda _: Route in router.drift)
    assert owned(routes) == {}
    assert converge(routes, [route("10.1.0.0/24")]) == {}


def test_a_link_of_ours_that_others_change_is_drift(router: Heard) -> None:
    links = LinkDriver(("kube-bridge",))
    assert converge(links, [BRIDGE]) == {}
    seen(router, "192.0.3.1")
    assert router.drift == []
    sh("ip", "link", "set", "kube-bridge", "mtu", "1400")
    router.wait(lambda _: router.drift == [Link])


def test_a_link_that_we_made_anew_has_lost_its_routes(router: Heard) -> None:
    links, routes = LinkDriver(("kube-bridge",)), RouteDriver((TABLE_MAIN,))
    assert converge(links, [BRIDGE]) == {}
    through = Route(RouteKey(TABLE_MAIN, Prefix(bytes((10, 1, 0, 0)), 24)), devices=("kube-bridge",))
    assert converge(routes, [through]) == {}
    assert converge(links, []) == {}
    assert converge(links, [BRIDGE]) == {}
    router.wait(lambda _: Route in router.drift)
    assert owned(routes) == {}
