"""Links, addresses, routes and rules against the real kernel, beside foreign neighbours."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest

from kuberouter.drivers.network import FEW, BridgePortDriver, LinkDriver, PolicyRuleDriver, RouteDriver
from kuberouter.model.core import Batch, Family, Prefix
from kuberouter.model.network import (
    TABLE_MAIN,
    BridgePort,
    BridgePortKey,
    Link,
    LinkKey,
    LinkKind,
    PolicyRule,
    PolicyRuleKey,
    Route,
    RouteKey,
)
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.netlink import NetlinkSocket
from tests.kernel.conftest import need
from tests.kernel.drive import converge, owned, sh


def packed(text: str) -> bytes:
    return ip_address(text).packed


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def route(destination: str, *gateways: str, device: str = "", source: str = "", table: int = TABLE_MAIN) -> Route:
    return Route(
        RouteKey(table, prefix(destination)),
        tuple(sorted(packed(g) for g in gateways)),
        tuple(device.split()),
        packed(source) if source else b"",
    )


@pytest.fixture
def uplink(namespace: str) -> str:
    """A namespace with a link that has addresses of both families."""
    sh("ip", "link", "add", "up0", "type", "bridge")
    sh("ip", "link", "set", "up0", "up")
    sh("ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
    sh("ip", "addr", "add", "2001:db8::1/64", "dev", "up0", "nodad")
    return namespace


def test_links_are_made_mended_and_removed_beside_foreign_ones(uplink: str) -> None:
    driver = LinkDriver(("kube-bridge",), ("tun-",))
    bridge = Link(LinkKey("kube-bridge"), LinkKind.BRIDGE, 1480)
    assert converge(driver, [bridge]) == {}
    assert owned(driver) == {bridge.key: bridge}
    sh("ip", "link", "set", "kube-bridge", "down", "mtu", "1400")
    assert owned(driver) != {bridge.key: bridge}
    assert converge(driver, [bridge]) == {}
    assert owned(driver) == {bridge.key: bridge}
    assert converge(driver, []) == {}
    assert owned(driver) == {}
    assert "up0" in sh("ip", "-br", "link")


def test_a_link_without_a_wanted_mtu_keeps_what_it_has(uplink: str) -> None:
    driver = LinkDriver(("kube-bridge",))
    bridge = Link(LinkKey("kube-bridge"), LinkKind.BRIDGE)
    assert converge(driver, [bridge]) == {}
    sh("ip", "link", "set", "kube-bridge", "mtu", "1400")
    assert owned(driver) == {bridge.key: bridge}


@pytest.mark.ipip
def test_tunnels_carry_their_end_points_and_are_replaced_when_these_change(uplink: str) -> None:
    need("ipip")
    driver = LinkDriver((), ("tun-",))
    old = Link(LinkKey("tun-e443169117a"), LinkKind.IPIP, 1480, packed("192.0.2.1"), packed("198.51.100.1"))
    six = Link(LinkKey("tun-e443169117b"), LinkKind.IP6TNL, 1440, packed("2001:db8::1"), packed("2001:db8:1::1"))
    assert converge(driver, [old, six]) == {}
    assert owned(driver) == {old.key: old, six.key: six}
    new = Link(old.key, LinkKind.IPIP, 1480, packed("192.0.2.1"), packed("198.51.100.2"))
    assert converge(driver, [new, six]) == {}
    assert owned(driver) == {new.key: new, six.key: six}


def test_a_missing_link_kind_names_its_module_and_spares_the_others(uplink: str) -> None:
    driver = LinkDriver(("kube-bridge", "kube-dummy-if"))
    bridge, dummy = (
        Link(LinkKey("kube-bridge"), LinkKind.BRIDGE, 1500),
        Link(LinkKey("kube-dummy-if"), LinkKind.DUMMY, 1500),
    )
    failed = converge(driver, [bridge, dummy])
    assert bridge.key in owned(driver)
    if dummy.key in owned(driver):
        assert failed == {}
    else:
        assert failed == {dummy.key: "kernel module dummy is missing"}


def test_any_routes_become_any_other_routes(uplink: str) -> None:
    driver = RouteDriver((TABLE_MAIN, 77))
    sh("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.9")
    sh("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.9", "proto", "17", "table", "99")
    dice = random.Random(4711)
    pool = [
        *(route(f"10.244.{n}.0/24", "192.0.2.2") for n in range(6)),
        *(route(f"10.244.{n}.0/24", "192.0.2.3", "192.0.2.4") for n in range(3, 9)),
        *(route(f"10.245.{n}.0/24", device="up0", source="192.0.2.1") for n in range(4)),
        *(route(f"198.51.100.{n}/32", device="up0", table=77) for n in range(4)),
        *(route(f"2001:db8:{n}::/64", "2001:db8::2") for n in range(1, 5)),
        *(route(f"2001:db8:{n}::/64", "2001:db8::3", "2001:db8::4") for n in range(3, 7)),
        *(route(f"2001:db8:f{n}::1/128", device="up0", source="2001:db8::1", table=77) for n in range(3)),
    ]
    for _ in range(25):
        state = {r.key: r for r in dice.sample(pool, dice.randrange(len(pool)))}
        assert converge(driver, state.values()) == {}
        assert owned(driver) == state
    foreign = sh("ip", "route", "show", "table", "all", "203.0.113.0/24")
    assert "via 192.0.2.9 dev up0" in foreign
    assert "table 99" in foreign


def test_what_others_do_to_routes_is_seen_however_often_they_were_read(uplink: str) -> None:
    driver = RouteDriver((TABLE_MAIN,))
    one, two, three = (route(f"10.{n}.0.0/16", "192.0.2.2") for n in range(3))
    six = route("2001:db8:9::/48", "2001:db8::9")
    assert not driver.write(Batch((one, two, three, six))).failed
    assert owned(driver) == owned(driver) == {row.key: row for row in (one, two, three, six)}
    sh("ip", "route", "replace", "10.0.0.0/16", "via", "192.0.2.3", "proto", "17")
    sh("ip", "route", "del", "10.1.0.0/16")
    sh("ip", "-6", "route", "replace", "2001:db8:9::/48", "via", "2001:db8::8", "proto", "17")
    changed = (route("10.0.0.0/16", "192.0.2.3"), three, route("2001:db8:9::/48", "2001:db8::8"))
    assert owned(driver) == owned(driver) == {row.key: row for row in changed}


def test_a_link_that_has_another_name_is_known_by_it(uplink: str) -> None:
    driver = RouteDriver((TABLE_MAIN,))
    for before, now in (("up0", "up0"), ("up0", "up1")):
        sh("ip", "link", "set", before, "down")
        sh("ip", "link", "set", before, "name", now)
        sh("ip", "link", "set", now, "up")
        row = route("10.9.0.0/16", device=now)
        assert not driver.write(Batch((row,))).failed
        assert owned(driver) == owned(driver) == {row.key: row}


def test_several_links_share_the_load_and_one_that_lacks_is_named(uplink: str) -> None:
    sh("ip", "link", "add", "up1", "type", "bridge")
    sh("ip", "link", "set", "up1", "up")
    driver = RouteDriver((TABLE_MAIN,))
    for devices in ("up0 up1", "up1", "up0 up1"):
        row = route("10.244.3.0/24", device=devices, source="192.0.2.1")
        assert converge(driver, [row]) == {}
        assert owned(driver) == {row.key: row}
    lacking = route("10.244.4.0/24", device="tun-gone up0")
    assert converge(driver, [row, lacking]) == {lacking.key: "link tun-gone does not exist"}
    assert owned(driver) == {row.key: row}


def test_b09_a_route_that_changes_is_never_away(uplink: str) -> None:
    """Every update of a route took it out of the kernel first, so packets were lost."""
    sh("ip", "link", "add", "up1", "type", "bridge")
    sh("ip", "link", "set", "up1", "up")
    driver = RouteDriver((TABLE_MAIN, 77))
    states = [
        [route("10.244.3.0/24", "192.0.2.2"), route("fd44:3::/64", "2001:db8::2")],
        [route("10.244.3.0/24", "192.0.2.2", "192.0.2.3"), route("fd44:3::/64", "2001:db8::2", "2001:db8::3")],
        [route("10.244.3.0/24", device="up1"), route("fd44:3::/64", device="up1")],
        [route("10.244.3.0/24", device="up0 up1"), route("fd44:3::/64", device="up0", source="2001:db8::1")],
        [route("10.244.3.0/24", "192.0.2.3"), route("fd44:3::/64", "2001:db8::3")],
    ]
    groups = (rt.RTNLGRP_IPV4_ROUTE, rt.RTNLGRP_IPV6_ROUTE)
    with NetlinkSocket(rt.NETLINK_ROUTE, groups=groups) as notices:
        for state in states:
            assert converge(driver, state) == {}
            assert owned(driver) == {row.key: row for row in state}
        kinds: list[int] = []
        while heard := notices.notices(0.2):
            kinds += [notice.kind for notice in heard]
    assert len(kinds) >= 2 * len(states)
    assert set(kinds) == {rt.RTM_NEWROUTE}


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("10.244.3.0/24", "via 192.0.2.9 proto static"),
        ("10.244.3.0/24", "dev up0"),
        ("2001:db8:3::/64", "via 2001:db8::9 proto static"),
        ("2001:db8:3::/64", "dev up0 metric 1024"),
    ],
)
def test_a_route_of_another_is_never_written_over(uplink: str, destination: str, words: str) -> None:
    driver = RouteDriver((TABLE_MAIN, 77))
    sh("ip", "route", "add", destination, *words.split())
    before = sh("ip", "route", "show", destination) or sh("ip", "-6", "route", "show", destination)
    six = ":" in destination
    row = route(destination, "2001:db8::2" if six else "192.0.2.2")
    free = route("10.244.4.0/24", "192.0.2.2")
    (text,) = converge(driver, [row, free]).values()
    assert text == f"a route to it is there that is not ours, of protocol {'static' if 'static' in words else 'boot'}"
    assert owned(driver) == {free.key: free}
    assert (sh("ip", "route", "show", destination) or sh("ip", "-6", "route", "show", destination)) == before
    # What is ours is not another's, whatever is known of it.
    assert driver.write(Batch((free,))).failed == {}
    sh("ip", "route", "del", destination)
    assert converge(driver, [row, free]) == {}
    assert owned(driver) == {row.key: row, free.key: free}


def test_b11_a_route_that_cannot_be_is_reported_alone(uplink: str) -> None:
    """The first route that the kernel refused kept it from getting the others."""
    driver = RouteDriver((TABLE_MAIN,))
    good, unreachable, nowhere = (
        route("10.1.0.0/24", "192.0.2.2"),
        route("10.2.0.0/24", "198.18.0.1"),
        route("10.3.0.0/24", device="tun-gone"),
    )
    failed = converge(driver, [good, unreachable, nowhere])
    assert owned(driver) == {good.key: good}
    assert failed == {
        unreachable.key: "ENETUNREACH: Network is unreachable",
        nowhere.key: "link tun-gone does not exist",
    }


def test_b19_rules_of_our_table_come_and_go_whatever_tables_are_called(uplink: str) -> None:
    """Without a file of table names on the host there were no rules; they need none, tables are numbers."""
    driver = PolicyRuleDriver((77,))
    sh("ip", "rule", "add", "from", "10.9.0.0/16", "lookup", "99")
    four = PolicyRule(PolicyRuleKey(Family.IPV4, prefix("10.244.1.0/24"), 77))
    six = PolicyRule(PolicyRuleKey(Family.IPV6, prefix("fd44:1::/64"), 77))
    everything = PolicyRule(PolicyRuleKey(Family.IPV4, prefix("0.0.0.0/0"), 77))
    for state in ([four, six], [four], [everything, six], [four, everything], []):
        assert converge(driver, state) == {}
        assert owned(driver) == {r.key: r for r in state}
    assert "from 10.9.0.0/16 lookup 99" in sh("ip", "rule")


def test_rules_of_our_table_that_are_not_by_source_alone_stay_and_doubles_go_at_once(uplink: str) -> None:
    """Others may have taken the number; and the kernel takes a rule twice that somebody adds by hand."""
    others = ("fwmark 3", "to 10.9.0.0/16", "from 10.9.0.0/16 iif lo", "not from 10.9.0.0/16", "dport 53")
    for rule in (*others, "from 10.244.1.0/24", "from 10.244.1.0/24 pref 100", "from 10.244.1.0/24 pref 50"):
        sh("ip", "rule", "add", *rule.split(), "lookup", "77")
    driver = PolicyRuleDriver((77,))
    assert [str(key.source) for key in owned(driver)] == ["10.244.1.0/24"]
    assert converge(driver, []) == {}
    assert owned(driver) == {}
    assert sh("ip", "rule").count("lookup 77") == len(others)


def test_ports_in_hairpin_mode_stay_in_it_and_others_are_left_alone(uplink: str) -> None:
    for name in ("veth1", "veth2", "loose"):
        sh("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    for name in ("veth1", "veth2"):
        sh("ip", "link", "set", name, "master", "up0")
    driver = BridgePortDriver()
    rows = [BridgePort(BridgePortKey(name)) for name in ("veth1", "loose", "gone")]
    failed = converge(driver, rows)
    assert set(failed) == {row.key for row in rows[1:]}
    assert failed[rows[2].key] == "link gone does not exist"
    assert owned(driver) == {rows[0].key: rows[0]}
    assert "hairpin on" in sh("bridge", "-d", "link", "show", "dev", "veth1")
    assert "hairpin off" in sh("bridge", "-d", "link", "show", "dev", "veth2")
    sh("bridge", "link", "set", "dev", "veth1", "hairpin", "off")
    sh("bridge", "link", "set", "dev", "veth2", "hairpin", "on")
    assert converge(driver, rows[:1]) == {}
    assert owned(driver) == {rows[0].key: rows[0]}
    assert converge(driver, []) == {}
    assert "hairpin on" in sh("bridge", "-d", "link", "show", "dev", "veth1")


def test_links_are_found_by_name_whether_few_or_many_are_asked_for(uplink: str) -> None:
    """Who asked for all links of a node with a thousand tunnels took 14 ms for one route, and for one link."""
    names = {f"veth{number}" for number in range(FEW)}
    for name in sorted(names)[:3]:
        sh("ip", "link", "add", name, "type", "bridge")
    driver = RouteDriver((TABLE_MAIN,))
    few = driver.indexes({"up0", "gone", *sorted(names)[:2]})
    assert few.keys() == {"up0", *sorted(names)[:2]}
    many = driver.indexes({"up0", *names})
    assert many.keys() == {"up0", *sorted(names)[:3]}
    assert few.items() <= many.items()
