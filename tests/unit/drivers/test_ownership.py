"""Whose virtual services those in the kernel are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.drivers.ownership import OWNED, GoServices, Ownership
from kuberouter.model.core import Family, L4Protocol, Prefix, family_of
from kuberouter.model.ipvs import PERSISTENT, VirtualServiceKey, marked_service


def key(address: str, port: int = 80) -> VirtualServiceKey:
    packed = ip_address(address).packed
    return VirtualServiceKey(family_of(packed), L4Protocol.TCP, packed, port)


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


OURS, THEIRS, LEFT = key("10.96.0.1"), key("198.51.100.1"), key("10.96.0.2")


def packed(*addresses: str) -> Callable[[], Collection[bytes]]:
    return lambda: {ip_address(address).packed for address in addresses}


def left_behind(*addresses: str) -> Callable[[Iterable[VirtualServiceKey]], frozenset[VirtualServiceKey]]:
    left = packed(*addresses)()
    return lambda keys: frozenset(key for key in keys if key.address in left)


def test_the_mark_makes_a_service_ours_whatever_its_other_flags() -> None:
    ownership = Ownership()
    ownership.look([(OURS, OWNED | PERSISTENT), (THEIRS, PERSISTENT)])
    assert ownership.ours(OURS)
    assert not ownership.ours(THEIRS)


def test_without_mark_what_is_wanted_is_ours_as_long_as_it_is_wanted() -> None:
    wanted = {OURS}
    ownership = Ownership(wanted.__contains__)
    ownership.look([(OURS, 0), (THEIRS, 0)])
    assert ownership.ours(OURS)
    assert not ownership.ours(THEIRS)
    wanted.clear()
    assert not ownership.ours(OURS)


def test_the_first_look_takes_over_what_stands_at_addresses_that_were_left_behind() -> None:
    ownership = Ownership(former=left_behind("10.96.0.2"))
    ownership.look([(LEFT, 0), (THEIRS, 0)])
    assert ownership.ours(LEFT)
    assert not ownership.ours(THEIRS)
    ownership.look([(LEFT, 0), (THEIRS, 0), (OURS, OWNED)])
    assert ownership.ours(LEFT), "until it is gone or marked"


def test_later_looks_take_nothing_over_and_what_is_gone_is_ours_no_more() -> None:
    former = left_behind("10.96.0.2")
    one = Ownership(former=former)
    one.look([])
    one.look([(LEFT, 0)])
    assert not one.ours(LEFT)
    other = Ownership(former=former)
    other.look([(LEFT, 0)])
    assert other.ours(LEFT)
    other.look([(THEIRS, 0)])
    other.look([(LEFT, 0)])
    assert not other.ours(LEFT), "somebody has made it since"


def test_a_take_over_that_was_broken_off_is_ended_by_the_next_process() -> None:
    wanted = {OURS}
    ownership = Ownership(wanted.__contains__, former=left_behind("10.96.0.1", "10.96.0.2"))
    ownership.look([(OURS, OWNED), (LEFT, 0), (THEIRS, 0)])
    assert [ownership.ours(each) for each in (OURS, LEFT, THEIRS)] == [True, True, False]


def test_the_go_kube_router_has_left_node_ports_as_well_where_it_has_been() -> None:
    vip, node, everywhere, six = LEFT, key("192.0.2.1", 31000), key("127.0.0.1", 30080), key("2001:db8::1", 32767)
    outside, elsewhere, direct = key("192.0.2.1", 8443), key("198.51.100.1", 31000), key("192.0.2.1", 31001)
    local = packed("192.0.2.1", "127.0.0.1", "2001:db8::1")
    asked: list[VirtualServiceKey] = []

    def plain(service: VirtualServiceKey) -> bool:
        asked.append(service)
        return service != direct

    keys = (vip, node, everywhere, six, outside, elsewhere, direct, marked_service(Family.IPV4, 5))
    there = GoServices(packed("10.96.0.2"), local, (30000, 32767), plain)
    assert there.among(keys) == {vip, node, everywhere, six}
    assert asked == [node, everywhere, six, direct], "the kernel is asked for the destinations of few"
    never = GoServices(packed(), local, (30000, 32767), plain)
    assert never.among(keys) == frozenset()


def test_b29_excluded_networks_cover_both_families_the_mark_and_the_take_over() -> None:
    excluded = (prefix("10.96.0.0/30"), prefix("fd96::/64"))
    six = key("fd96::1")
    ownership = Ownership(former=left_behind("10.96.0.2", "fd96::1"), excluded=excluded)
    ownership.look([(LEFT, 0), (six, 0)])
    assert not ownership.ours(LEFT)
    assert not ownership.ours(six)
    marked = Ownership({LEFT}.__contains__, excluded=excluded)
    marked.look([(OURS, OWNED), (LEFT, OWNED), (key("10.96.0.4"), OWNED)])
    assert [marked.ours(k) for k in (OURS, LEFT, key("10.96.0.4"))] == [False, True, True]
    assert marked.excluded(OURS.address)


def test_b29_services_of_firewall_marks_of_others_are_left_alone() -> None:
    theirs, ours = marked_service(Family.IPV4, 5), marked_service(Family.IPV6, 6)
    ownership = Ownership(former=left_behind("10.96.0.2"), excluded=(prefix("0.0.0.0/0"),))
    ownership.look([(theirs, 0), (ours, OWNED)])
    assert not ownership.ours(theirs)
    assert ownership.ours(ours)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_a_block_covers_what_the_library_says(one: object, other: object, length: int) -> None:
    network = ip_network(f"{one}/{min(length, 32 if '.' in str(one) else 128)}", strict=False)
    block = Prefix(network.network_address.packed, network.prefixlen)
    for address in (ip_address(str(one)), ip_address(str(other))):
        same = address.version == network.version
        assert block.covers(address.packed) == (same and address in network)


def test_a_look_serves_the_other_table_once_and_not_after_a_write() -> None:
    ownership = Ownership()
    assert ownership.just_seen() is None
    ownership.look([(OURS, OWNED), (THEIRS, 0)])
    assert ownership.just_seen() == (OURS, THEIRS)
    assert ownership.just_seen() is None
    ownership.look([(OURS, OWNED)])
    ownership.changed()
    assert ownership.just_seen() is None
