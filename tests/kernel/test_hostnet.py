"""What the host's netlink notices tell: addresses of links, and losses of ours that others caused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.drivers.network import LinkDriver, RouteDriver
from kuberouter.model.core import Prefix
from kuberouter.model.events import Drifted, Event, Synced, Upserted
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
from tests.kernel.drive import converge, sh

pytestmark = pytest.mark.root

BRIDGE = Link(LinkKey("kube-bridge"), LinkKind.BRIDGE, 1480)


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
    source = HostSource(lambda name: name.startswith("kube-"))
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


def seen(heard: Heard, address: str) -> None:
    """Wait until an address that was just put on the bridge is told; notices come in order."""
    sh("ip", "addr", "add", f"{address}/24", "dev", "kube-bridge")
    packed = ip_address(address).packed
    heard.wait(
        lambda events: any(isinstance(e, Upserted) and packed in {a.address for a in e.obj.addresses} for e in events)  # type: ignore[union-attr]  # this source tells of interfaces only
    )


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
