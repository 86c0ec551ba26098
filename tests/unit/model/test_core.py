"""Prefixes as text, and which addresses mean something on their link only."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kuberouter.model.core import Prefix, is_link_local


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.1.0.0/16", "192.0.2.1/32", "::/0", "fd00::/8", "2001:db8::1/128"])
def test_a_prefix_is_written_as_usual(text: str) -> None:
    network = ip_network(text)
    assert str(Prefix(network.network_address.packed, network.prefixlen)) == text


@pytest.mark.parametrize("text", ["169.254.0.1", "169.255.0.1", "192.0.2.1", "fe80::1", "febf::1", "fec0::1"])
def test_what_is_link_local(text: str) -> None:
    address = ip_address(text)
    assert is_link_local(address.packed) == address.is_link_local
