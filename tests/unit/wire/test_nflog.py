"""Records of logged packets, as a kernel (Linux 6.18) has sent them, and what can be wrong with them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from kuberouter.wire.nflog import CONFIG, PACKET, Headers, Record, headers, parse, take

SENT = bytes.fromhex(
    "02000064080001000800030028000a004b5542452d504f442d46572d4d57574346354546355849514c514c3420656772657373000800"
    "05000000000108000b000000000008000e000000000008000c00000000004400090045000080b04d400040118c1d7f0000017f000001"
    "9b7514e9006cfe7f787878787878787878787878787878787878787878787878787878787878787878787878"
)
"""A UDP packet from 127.0.0.1 to port 5353 that was logged in OUTPUT: there is no link that it came in by."""
RECEIVED = bytes.fromhex(
    "0a0000640800010086dd010018000a004b5542452d4e57504c43592d494e56414c4944000800040000000001100008000006000000000"
    "0000000000006000f000304000006001100000e00001200100000000000000000000000000086dd000014000300000000006b0831c200"
    "00000000052b2408000c000000000344000900600fe590006c114000000000000000000000000000000001000000000000000000000000"
    "00000001afe714ea006c007f78787878787878787878787878787878"
)
"""One from ::1 to port 5354 that was logged in INPUT."""
SOURCE, TARGET = ip_address("10.244.1.2").packed, ip_address("10.244.1.3").packed
SOURCE6, TARGET6 = ip_address("fd00:1::2").packed, ip_address("fd00:1::3").packed
TCP, UDP, ICMP = 6, 17, 1
PORTS = bytes.fromhex("9b75 1538 0000 0000")
"""From 39797 to 5432."""


def v4(protocol: int, above: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    first = 0x45 + len(options) // 4
    return bytes((first, 0, 0, 99, 0, 1, *fragment.to_bytes(2), 64, protocol, 0, 0)) + SOURCE + TARGET + options + above


def v6(kind: int, above: bytes) -> bytes:
    return bytes((0x60, 0, 0, 0, 0, len(above), kind, 64)) + SOURCE6 + TARGET6 + above


def test_a_record_tells_the_rule_the_packet_and_its_number() -> None:
    found = parse(PACKET, SENT)
    assert found == Record("KUBE-POD-FW-MWWCF5EF5XIQLQL4 egress", 0, 0, SENT[-64:])
    assert headers(found.packet) == Headers(bytes((127, 0, 0, 1)), bytes((127, 0, 0, 1)), UDP, 5353)


def test_a_record_tells_the_link() -> None:
    found = parse(PACKET, RECEIVED)
    assert found == Record("KUBE-NWPLCY-INVALID", 1, 3, RECEIVED[-64:])
    assert headers(found.packet) == Headers(ip_address("::1").packed, ip_address("::1").packed, UDP, 5354)


def test_the_port_of_a_bridge_counts_not_the_bridge() -> None:
    physical = bytes.fromhex("08000600 00000007")
    found = parse(PACKET, RECEIVED[:4] + physical + RECEIVED[4:])
    assert found is not None
    assert found.link == 7


def test_what_is_no_packet_and_what_says_nothing() -> None:
    assert parse(CONFIG, SENT) is None
    assert parse(3, bytes.fromhex("00000064")) is None
    assert parse(PACKET, bytes.fromhex("00000064")) == Record("", 0, None, b"")


@pytest.mark.parametrize("length", range(len(RECEIVED)))
def test_a_record_that_ends_early_does_no_harm(length: int) -> None:
    found = parse(PACKET, RECEIVED[:length]) if length >= 4 else None
    if found is not None:
        headers(found.packet)


@pytest.mark.parametrize("packet", [v4(TCP, PORTS), v6(TCP, PORTS), v4(TCP, PORTS, options=bytes(8)), v6(43, b"")])
def test_a_packet_that_ends_early_has_no_port_or_no_end_at_all(packet: bytes) -> None:
    whole = headers(packet)
    for length in range(len(packet)):
        found = headers(packet[:length])
        assert found is None or whole is None or (found.source, found.destination) == (whole.source, whole.destination)


@pytest.mark.parametrize(
    ("packet", "protocol", "port"),
    [
        (v4(TCP, PORTS), TCP, 5432),
        (v4(132, PORTS), 132, 5432),
        (v4(TCP, PORTS, options=bytes(8)), TCP, 5432),
        (v4(ICMP, PORTS), ICMP, 0),
        (v4(UDP, PORTS, fragment=0x2000), UDP, 5432),
        (v4(UDP, PORTS, fragment=0x00B9), UDP, 0),
        (v4(TCP, PORTS[:3]), TCP, 0),
        (v6(TCP, PORTS), TCP, 5432),
        (v6(58, PORTS), 58, 0),
        (v6(0, bytes((TCP, 0, *bytes(6))) + PORTS), TCP, 5432),
        (v6(60, bytes((43, 1, *bytes(14), UDP, 0, *bytes(6))) + PORTS), UDP, 5432),
        (v6(44, bytes((UDP, 0, 0, 1, *bytes(4))) + PORTS), UDP, 5432),
        (v6(44, bytes((UDP, 0, 0, 9, *bytes(4))) + PORTS), UDP, 0),
        (v6(59, b""), 59, 0),
        (v6(43, b""), 43, 0),
    ],
)
def test_ports_are_where_the_headers_say(packet: bytes, protocol: int, port: int) -> None:
    found = headers(packet)
    ends = (SOURCE, TARGET) if packet[0] >> 4 == 4 else (SOURCE6, TARGET6)
    assert found == Headers(*ends, protocol, port)


@pytest.mark.parametrize("packet", [b"", bytes(64), bytes((0x45, *bytes(18))), bytes((0x60, *bytes(38)))])
def test_what_is_no_ip_packet(packet: bytes) -> None:
    assert headers(packet) is None


def test_a_group_is_taken_with_bounds() -> None:
    kind, flags, body = take(100)
    assert (kind, flags) == (CONFIG, 0)
    assert body[:4] == bytes((0, 0, 0, 100))
    assert body[4:].hex() == (
        "0500010001000000" "0a000200000000400200" "0000" "0800030000004000" "0800040000000014" "0800050000000032"
        "060006000001" "0000"
    )  # fmt: skip
