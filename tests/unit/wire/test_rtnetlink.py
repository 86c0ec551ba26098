"""Requests for routes, byte by byte."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kuberouter.wire import rtnetlink as rt


@pytest.mark.parametrize("table", [77, 254, 1000])
@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.244.7.0/24", "203.0.113.9/32"])
def test_what_is_packed_in_haste_is_what_is_packed_otherwise(table: int, text: str) -> None:
    network, gateway = ip_network(text), ip_address("192.0.2.2").packed
    address, length = network.network_address.packed, network.prefixlen
    usual = rt.route_request(table, address, length, protocol=17, gateways=(gateway,))
    start, middle = rt.around_route(table, length, 17)
    assert start + address + middle + gateway == usual
    found = rt.parse_route(usual)
    assert (found.table, found.address, found.length, found.protocol) == (table, address, length, 17)
    assert found.hops == ((gateway, 0),)
