"""Service addresses against the real kernel: on a link and as local routes, beside what others put there."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.model.core import Batch
from kuberouter.model.network import Address, AddressKey, LocalRoute, LocalRouteKey
from tests.kernel.drive import converge, owned, sh
from tests.kernel.test_network import packed, prefix, uplink
from tests.support.lab import netns

__all__ = ["uplink"]

NODE4, NODE6 = "192.0.2.1", "2001:db8::1"


@pytest.fixture
def vip_link(uplink: str) -> str:
    """A link for VIPs: the dummy where the kernel has it, else a bridge, which is as good for addresses."""
    kind = "dummy" if netns.have("dummy") else "bridge"
    sh("ip", "link", "add", "kube-dummy-if", "type", kind)
    sh("ip", "link", "set", "kube-dummy-if", "up")
    return "kube-dummy-if"


def vip(text: str, source: str = "") -> Address:
    address = packed(text)
    return Address(AddressKey("kube-dummy-if", address, len(address) * 8), packed(source) if source else b"")


def test_vips_come_with_local_routes_that_prefer_the_node_address(vip_link: str) -> None:
    driver = AddressDriver((vip_link,))
    state = [vip("10.96.0.1", "192.0.2.1"), vip("10.96.0.2"), vip("fd96::1", "2001:db8::1"), vip("fd96::2")]
    assert converge(driver, state) == {}
    assert owned(driver) == {r.key: r for r in state}
    assert "src 192.0.2.1" in sh("ip", "route", "get", "10.96.0.1")
    assert "src 2001:db8::1" in sh("ip", "-6", "route", "get", "fd96::1")
    changed = [vip("10.96.0.1"), vip("10.96.0.2", "192.0.2.1"), vip("fd96::1", "2001:db8::1")]
    assert "192.0.2.1/24" in sh("ip", "addr", "show", "dev", "up0")
    assert converge(driver, changed) == {}
    assert vip("10.96.0.2", "192.0.2.1").key in owned(driver)
    assert converge(driver, []) == {}
    assert owned(driver) == {}
    assert "10.96" not in sh("ip", "route", "show", "table", "all")
    assert "fd96" not in sh("ip", "-6", "route", "show", "table", "all")
    assert "192.0.2.1/24" in sh("ip", "addr", "show", "dev", "up0")


def test_an_address_whose_link_is_missing_fails_alone(vip_link: str) -> None:
    driver = AddressDriver((vip_link, "kube-bridge"))
    lost = Address(AddressKey("kube-bridge", packed("10.96.0.9"), 32))
    good = vip("10.96.0.1", "192.0.2.1")
    assert converge(driver, [good, lost]) == {lost.key: "link kube-bridge does not exist"}
    assert owned(driver) == {good.key: good}


def both(number: int) -> list[Address]:
    """A service address of each family."""
    return [vip(f"10.96.0.{number}", NODE4), vip(f"fd96::{number}", NODE6)]


def as_go_does(link: str, address: str, source: str) -> None:
    """Put an address on the link as the Go kube-router leaves it."""
    bits = 128 if ":" in address else 32
    scope = [] if ":" in address else ["scope", "link"]
    sh("ip", "addr", "add", f"{address}/{bits}", "dev", link, *scope)
    way = ["local", f"{address}/{bits}", "dev", link, "table", "local", "proto", "kernel", "src", source]
    sh("ip", *(["-6"] if bits == 128 else []), "route", "replace", *way)


def test_what_others_put_on_the_link_stays(vip_link: str) -> None:
    sh("ip", "addr", "add", "198.51.100.7/32", "dev", vip_link)
    sh("ip", "addr", "add", "2001:db8:7::7/128", "dev", vip_link, "nodad")
    for _ in range(2):
        driver = AddressDriver((vip_link,))
        assert converge(driver, both(1)) == {}
        assert converge(driver, []) == {}
    shown = sh("ip", "addr", "show", "dev", vip_link)
    assert "198.51.100.7/32" in shown
    assert "2001:db8:7::7/128" in shown


def test_what_the_go_kube_router_left_is_taken_over(vip_link: str) -> None:
    for address, source in (("10.96.0.1", NODE4), ("fd96::1", NODE6), ("10.96.0.2", NODE4)):
        as_go_does(vip_link, address, source)
    sh("ip", "addr", "add", "198.51.100.7/32", "dev", vip_link)
    driver = AddressDriver((vip_link,))
    assert driver.former() == {packed("10.96.0.1"), packed("fd96::1"), packed("10.96.0.2")}
    assert converge(driver, both(1)) == {}
    assert "10.96.0.2" not in sh("ip", "addr", "show", "dev", vip_link)
    rows = {row.key: row for row in both(1)}
    assert owned(AddressDriver((vip_link,))) == rows, "those that stay are marked"
    assert owned(driver) == rows
    # What comes back later is somebody's who has put it there since.
    as_go_does(vip_link, "10.96.0.2", NODE4)
    assert owned(driver) == rows
    assert driver.former() == {packed("10.96.0.1"), packed("fd96::1"), packed("10.96.0.2")}
    assert converge(driver, []) == {}
    shown = sh("ip", "addr", "show", "dev", vip_link)
    assert "10.96.0.2" in shown
    assert "198.51.100.7" in shown
    assert "10.96.0.1" not in shown


def test_a_take_over_that_was_broken_off_is_ended_by_the_next_process(vip_link: str) -> None:
    for address, source in (("10.96.0.1", NODE4), ("fd96::1", NODE6), ("10.96.0.2", NODE4), ("fd96::2", NODE6)):
        as_go_does(vip_link, address, source)
    sh("ip", "addr", "add", "198.51.100.7/32", "dev", vip_link)
    # What is wanted is marked, and then the process ends.
    assert not AddressDriver((vip_link,)).write(Batch(tuple(both(1)))).failed
    driver = AddressDriver((vip_link,))
    assert driver.former() == {packed("10.96.0.2"), packed("fd96::2")}
    assert converge(driver, both(1)) == {}
    shown = sh("ip", "addr", "show", "dev", vip_link)
    assert [a in shown for a in ("10.96.0.1/", "10.96.0.2/", "fd96::2/", "198.51.100.7/")] == [True, False, False, True]


def test_the_addresses_of_all_links_are_known(vip_link: str) -> None:
    as_go_does(vip_link, "10.96.0.1", NODE4)
    sh("ip", "link", "set", "lo", "up")
    found = AddressDriver((vip_link,)).everywhere()
    assert {packed(a) for a in ("10.96.0.1", "127.0.0.1", "::1", NODE4, NODE6)} <= found


def test_an_address_that_is_wanted_is_ours_whoever_put_it_there(vip_link: str) -> None:
    assert converge(AddressDriver((vip_link,)), both(1)) == {}
    sh("ip", "addr", "add", "10.96.0.2/32", "dev", vip_link)
    wanted = vip("10.96.0.2", NODE4)
    driver = AddressDriver((vip_link,), lambda key: key == wanted.key)
    assert owned(driver)[wanted.key] == Address(wanted.key, b"", False)
    assert converge(driver, [wanted]) == {}
    assert owned(AddressDriver((vip_link,))) == {wanted.key: wanted}


def test_b29_addresses_in_excluded_networks_stay_unless_they_are_wanted(vip_link: str) -> None:
    excluded = (prefix("10.96.1.0/24"), prefix("fd97::/64"))
    for address, source in (("10.96.0.1", NODE4), ("10.96.1.1", NODE4), ("10.96.1.2", NODE4), ("fd97::1", NODE6)):
        as_go_does(vip_link, address, source)
    wanted = vip("10.96.1.2", NODE4)
    driver = AddressDriver((vip_link,), lambda key: key == wanted.key, excluded=excluded)
    assert converge(driver, [wanted]) == {}
    shown = sh("ip", "addr", "show", "dev", vip_link)
    assert [a in shown for a in ("10.96.0.1/", "10.96.1.1/", "10.96.1.2/", "fd97::1/")] == [False, True, True, True]
    # Even what bears our mark is kept by a process that is told to keep its hands off.
    assert converge(AddressDriver((vip_link,), excluded=excluded), []) == {}
    assert "10.96.1.2/" in sh("ip", "addr", "show", "dev", vip_link)


def test_b18_routes_of_others_to_the_same_address_stay(vip_link: str) -> None:
    sh("ip", "-6", "route", "add", "fd96::1/128", "dev", "up0", "table", "100")
    sh("ip", "-6", "route", "add", "fd96::1/128", "dev", "up0", "metric", "5")
    sh("ip", "-6", "route", "add", "local", "fd96::1/128", "dev", "lo", "table", "local", "metric", "7")
    driver = AddressDriver((vip_link,))
    assert converge(driver, both(1)) == {}
    local = sh("ip", "-6", "route", "show", "table", "local", "fd96::1")
    assert f"dev {vip_link} proto 17 src {NODE6} metric 1024" in local
    assert f"dev {vip_link} proto kernel" not in local, "the kernel's own route would win over ours"
    assert converge(driver, []) == {}
    for words, way in (
        (("table", "100"), "fd96::1 dev up0 metric 1024"),
        (("table", "main"), "fd96::1 dev up0 metric 5"),
        (("table", "local"), "local fd96::1 dev lo metric 7"),
    ):
        assert way in sh("ip", "-6", "route", "show", *words).replace(" pref medium", "")


def test_a_flush_leaves_nothing_behind_that_is_not_found_again(vip_link: str) -> None:
    driver = AddressDriver((vip_link,))
    assert converge(driver, [*both(1), *both(2)]) == {}
    sh("ip", "addr", "flush", "dev", vip_link)
    # Of two addresses one is wanted still; of the other only a route may be left, which goes as well.
    assert converge(driver, both(1)) == {}
    assert owned(driver) == {row.key: row for row in both(1)}
    for words in (["ip"], ["ip", "-6"]):
        assert "10.96.0.2" not in sh(*words, "route", "show", "table", "local")
        assert "fd96::2" not in sh(*words, "route", "show", "table", "local")


def test_a_link_that_went_down_gets_its_addresses_back(vip_link: str) -> None:
    driver = AddressDriver((vip_link,))
    assert converge(driver, both(1)) == {}
    sh("ip", "link", "set", vip_link, "down")
    sh("ip", "link", "set", vip_link, "up")
    assert converge(driver, both(1)) == {}
    assert owned(driver) == {row.key: row for row in both(1)}
    for address, source in (("10.96.0.1", NODE4), ("fd96::1", NODE6)):
        assert f"src {source}" in sh("ip", "route", "get", address)


def routes(*numbers: int) -> list[LocalRoute]:
    """The same service addresses as local routes."""
    return [LocalRoute(LocalRouteKey(row.key.address), row.source) for n in numbers for row in both(n)]


def test_local_routes_come_and_go_beside_those_of_others(uplink: str) -> None:
    sh("ip", "route", "add", "local", "198.51.100.7/32", "dev", "lo", "table", "local")
    sh("ip", "route", "add", "10.96.0.9/32", "dev", "up0", "proto", "17")
    driver = LocalRouteDriver()
    for state in (routes(1, 2), routes(2, 3), [LocalRoute(routes(2)[0].key)], routes(2)):
        assert converge(driver, state) == {}
        assert owned(driver) == {row.key: row for row in state}
    assert owned(LocalRouteDriver()) == {row.key: row for row in routes(2)}
    for address, source in (("10.96.0.2", NODE4), ("fd96::2", NODE6)):
        way = sh("ip", "route", "get", address)
        assert way.startswith(f"local {address} ")
        assert "dev lo " in way
        assert f"src {source}" in way
    assert converge(driver, []) == {}
    assert "198.51.100.7" in sh("ip", "route", "show", "table", "local")
    assert "10.96.0.9 dev up0 proto 17" in sh("ip", "route")
    assert "10.96" not in sh("ip", "route", "show", "table", "local")


def test_b29_local_routes_in_excluded_networks_stay_unless_they_are_wanted(uplink: str) -> None:
    assert converge(LocalRouteDriver(), routes(1)) == {}
    excluded = (prefix("10.96.0.0/24"),)
    assert converge(LocalRouteDriver(excluded=excluded), []) == {}
    assert set(owned(LocalRouteDriver())) == {routes(1)[0].key}
    wanting = LocalRouteDriver(lambda key: True, excluded=excluded)
    assert set(owned(wanting)) == {routes(1)[0].key}


def addresses_of(rows: Collection[Address]) -> tuple[Address, ...]:
    """Rows in the order of their addresses."""
    return tuple(sorted(rows, key=lambda row: row.key.address))


@pytest.mark.parametrize("back", [False, True])
def test_the_ways_of_having_addresses_replace_each_other_without_a_gap(vip_link: str, back: bool) -> None:
    """As the engine does it: first everything is added, then what is no longer wanted goes."""
    on_link, without = AddressDriver((vip_link,)), LocalRouteDriver()

    def reachable() -> bool:
        return all(f"src {s}" in sh("ip", "route", "get", a) for a, s in (("10.96.0.1", NODE4), ("fd96::1", NODE6)))

    if back:
        assert converge(without, routes(1)) == {}
        assert not on_link.write(Batch(tuple(both(1)))).failed
        assert reachable()
        assert not without.write(Batch(remove=tuple(routes(1)))).failed
        assert reachable()
        assert owned(on_link) == {row.key: row for row in both(1)}
        assert owned(without) == {}
        return
    assert converge(on_link, both(1)) == {}
    assert not without.write(Batch(tuple(routes(1)))).failed
    assert reachable()
    assert not on_link.write(Batch(remove=addresses_of(owned(on_link).values()))).failed
    assert reachable()
    assert owned(without) == {row.key: row for row in routes(1)}
    assert owned(on_link) == {}


def test_whoever_wants_to_know_is_told_of_addresses_that_have_become_the_nodes_own(vip_link: str) -> None:
    heard: list[set[bytes]] = []
    driver = AddressDriver((vip_link, "kube-bridge"), arrived=lambda addresses: heard.append(set(addresses)))
    lost = Address(AddressKey("kube-bridge", packed("10.96.0.9"), 32))
    first = {row.key.address for row in both(1)}
    converge(driver, [*both(1), lost])
    assert heard == [first], "not of one that cannot be had"
    assert converge(driver, [*both(1), *both(2)]) == {}
    assert heard[1:] == [{row.key.address for row in both(2)}]
    assert converge(driver, [*both(1), vip("10.96.0.2")]) == {}
    assert len(heard) == 2, "neither of one that goes nor of another source"
    sh("ip", "addr", "flush", "dev", vip_link)
    assert converge(driver, [*both(1), vip("10.96.0.2")]) == {}
    assert heard[2:] == [{*first, packed("10.96.0.2")}]
    assert converge(driver, [*both(1), vip("10.96.0.2")]) == {}
    assert len(heard) == 3


def test_the_same_of_local_routes(uplink: str) -> None:
    heard: list[set[bytes]] = []
    driver = LocalRouteDriver(arrived=lambda addresses: heard.append(set(addresses)))
    one = LocalRoute(LocalRouteKey(packed("10.96.0.1")), packed(NODE4))
    two = LocalRoute(LocalRouteKey(packed("fd96::2")), packed(NODE6))
    assert converge(driver, [one]) == {}
    assert converge(driver, [one, two]) == {}
    assert converge(driver, [LocalRoute(one.key, b""), two]) == {}
    assert heard == [{one.key.address}, {two.key.address}]
    sh("ip", "route", "del", "table", "local", "local", "10.96.0.1")
    assert converge(driver, [one]) == {}
    assert heard[2:] == [{one.key.address}]
