"""What is sent about destinations: attributes that the kernel's own layout (linux/ip_vs.h) reads back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from kuberouter.wire import ipvs
from kuberouter.wire.netlink import GENL_HEADER, attributes

SERVICE = ipvs.service_reference(ipvs.service_key(2, 6, bytes((10, 96, 0, 1)), 80))


@pytest.mark.parametrize("text", ["10.244.1.5", "fd44::5"])
@pytest.mark.parametrize(("port", "weight", "forward"), [(8080, 1, 0), (1, 0, 2), (65535, 65535, 0)])
def test_a_destination_reads_back_as_it_was_meant(text: str, port: int, weight: int, forward: int) -> None:
    address = ip_address(text).packed
    body = ipvs.destination_request(SERVICE, address, port, weight, forward)
    found = ipvs.parse_destination(bytes(GENL_HEADER.size) + body, 2)
    assert found == ipvs.DestinationFacts(address, port, weight, forward)
    outer = attributes(body)
    assert outer[ipvs.ATTR_SERVICE] == attributes(SERVICE)[ipvs.ATTR_SERVICE]
    inner = attributes(outer[ipvs.ATTR_DEST])
    # The union of addresses (union nf_inet_addr) is always 16 bytes long.
    assert inner[ipvs.DEST_ADDR] == address.ljust(16, b"\0")
    assert list(inner) == [*range(1, 7), ipvs.DEST_ADDR_FAMILY]
    assert inner[ipvs.DEST_U_THRESH] == inner[ipvs.DEST_L_THRESH] == bytes(4)
    assert len(body) == len(SERVICE) + 4 + sum(4 + len(value) + (-len(value) & 3) for value in inner.values())


@pytest.mark.parametrize(("family", "address"), [(2, "10.96.0.1"), (10, "fd96::1")])
def test_services_that_balance_alike_keep_their_own_keys(family: int, address: str) -> None:
    keys = [ipvs.service_key(family, 6, ip_address(address).packed, port) for port in (80, 443)]
    for key, port, scheduler, timeout in zip(keys, (80, 443), ("rr", "sh"), (0, 60), strict=True):
        body = ipvs.service_request(key, family, scheduler, 0x1, timeout, 0x3D)
        found = ipvs.parse_service(bytes(GENL_HEADER.size) + body)
        assert (found.family, found.address, found.port) == (family, ip_address(address).packed, port)
        assert (found.scheduler, found.timeout, found.netmask) == (scheduler, timeout, ipvs.NETMASKS[family])
