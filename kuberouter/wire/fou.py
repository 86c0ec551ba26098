"""UDP ports at which the kernel takes packets out of UDP, on the wire (generic netlink, linux/fou.h).

Pure packing and unpacking. Only ports for any peer at any local address are meant.
"""

from __future__ import annotations

from typing import NamedTuple

from kuberouter.wire.netlink import GENL_HEADER, attribute, attributes

FAMILY = "fou"
VERSION = 1
CMD_ADD, CMD_DEL, CMD_GET = 1, 2, 3
ATTR_PORT, ATTR_AF, ATTR_IPPROTO, ATTR_TYPE = 1, 2, 3, 4
ENCAP_DIRECT, ENCAP_GUE = 1, 2


class PortFacts(NamedTuple):
    """A port as the kernel tells it: address family, number, and whether packets there are GUE."""

    family: int
    port: int
    gue: bool


def list_request() -> bytes:
    """Body of a dump of all ports."""
    return GENL_HEADER.pack(CMD_GET, VERSION, 0)


def add_request(family: int, port: int) -> bytes:
    """Body that opens a port for GUE; what is inside a packet says so itself."""
    return _request(CMD_ADD, family, port) + attribute(ATTR_TYPE, bytes((ENCAP_GUE,)))


def remove_request(family: int, port: int) -> bytes:
    """Body that closes a port."""
    return _request(CMD_DEL, family, port)


def _request(command: int, family: int, port: int) -> bytes:
    head = GENL_HEADER.pack(command, VERSION, 0)
    return head + attribute(ATTR_PORT, port.to_bytes(2, "big")) + attribute(ATTR_AF, bytes((family,)))


def parse_port(body: bytes) -> PortFacts:
    """A port from an answer to the dump."""
    found = attributes(body, GENL_HEADER.size)
    family, kind = found.get(ATTR_AF, b"\0")[0], found.get(ATTR_TYPE, b"\0")[0]
    return PortFacts(family, int.from_bytes(found.get(ATTR_PORT, b""), "big"), kind == ENCAP_GUE)
