"""Packets that rules log to a group, over netlink (nfnetlink_log, linux/netfilter/nfnetlink_log.h).

One socket at a time has a group. Packets come in batches, numbered, so that a gap tells how many were lost when they
came faster than they were read. Of each packet only the beginning is copied: what it takes for addresses and ports.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from kuberouter.wire.netlink import Message, attribute, attributes, text

NETLINK_NETFILTER = 12
NFNL_SUBSYS_ULOG = 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = 0, 1
PACKET = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET
CONFIG = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG
"""Netlink message types."""
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_NLBUFSIZ = 1, 2, 3
NFULA_CFG_TIMEOUT, NFULA_CFG_QTHRESH, NFULA_CFG_FLAGS = 4, 5, 6
NFULNL_CFG_CMD_BIND = 1
NFULNL_COPY_PACKET = 2
NFULNL_CFG_F_SEQ = 1
NFULA_IFINDEX_INDEV, NFULA_IFINDEX_PHYSINDEV = 4, 6
NFULA_PAYLOAD, NFULA_PREFIX, NFULA_SEQ = 9, 10, 12

COPY = 64
"""Bytes of a packet that are copied: an IPv6 header and 24 more."""
BATCH = 50
"""Packets that the kernel gathers before it hands them over."""
BATCH_BYTES = 1 << 14
"""Bytes of such a batch; a record has about 200."""
BATCH_TIME = 20
"""Hundredths of a second after which it hands over what there is."""

NFGEN = Struct("=BBH")
MODE = Struct(">IBB")
U16, U32 = Struct(">H"), Struct(">I")
TCP, UDP, SCTP = 6, 17, 132
WITH_PORTS = (TCP, UDP, SCTP)
ROUTING_HEADERS = (0, 43, 60)
"""Hop-by-hop options, routing, destination options: further headers of IPv6 that say how long they are (RFC 8200)."""
FRAGMENT = 44


class Record(NamedTuple):
    """A packet that was logged: the rule's prefix, the index of the link it came in by (0: none), how it begins.

    `number` counts the packets of the group, lost ones too, modulo 2**32; None if it came before they were numbered.
    """

    prefix: str
    link: int
    number: int | None
    packet: bytes


class Headers(NamedTuple):
    """Packed addresses, the protocol above IP, and the destination's port; 0 if there is none or it was cut off."""

    source: bytes
    destination: bytes
    protocol: int
    port: int


def take(group: int) -> Message:
    """The request that makes a group ours. Refused with EPERM while another socket has it."""
    body = (
        attribute(NFULA_CFG_CMD, bytes((NFULNL_CFG_CMD_BIND,))),
        attribute(NFULA_CFG_MODE, MODE.pack(COPY, NFULNL_COPY_PACKET, 0)),
        attribute(NFULA_CFG_NLBUFSIZ, U32.pack(BATCH_BYTES)),
        attribute(NFULA_CFG_TIMEOUT, U32.pack(BATCH_TIME)),
        attribute(NFULA_CFG_QTHRESH, U32.pack(BATCH)),
        attribute(NFULA_CFG_FLAGS, U16.pack(NFULNL_CFG_F_SEQ)),
    )
    # The group's number is in network order, as all numbers here are.
    head = struct.pack(">BBH", 0, 0, group)
    return CONFIG, 0, head + b"".join(body)


def parse(kind: int, body: bytes) -> Record | None:
    """A packet, or None for another message. `body` is what follows the netlink header."""
    if kind != PACKET:
        return None
    found = attributes(body, NFGEN.size)
    # Behind a bridge the port says more than the bridge.
    link = found.get(NFULA_IFINDEX_PHYSINDEV) or found.get(NFULA_IFINDEX_INDEV) or b""
    number = found.get(NFULA_SEQ)
    return Record(
        text(found.get(NFULA_PREFIX, b"")),
        int.from_bytes(link, "big"),
        int.from_bytes(number, "big") if number is not None else None,
        found.get(NFULA_PAYLOAD, b""),
    )


def headers(packet: bytes) -> Headers | None:
    """What the beginning of an IP packet says; None if it is too short or no IP."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        # RFC 791: what is not the first fragment has no ports.
        first = not U16.unpack_from(packet, 6)[0] & 0x1FFF
        above = (packet[0] & 0xF) * 4 if first else len(packet)
        return Headers(packet[12:16], packet[16:20], packet[9], _port(packet, packet[9], above))
    if version == 6 and len(packet) >= 40:
        *_, (protocol, above) = _chain(packet)
        return Headers(packet[8:24], packet[24:40], protocol, _port(packet, protocol, above))
    return None


def _chain(packet: bytes) -> Iterator[tuple[int, int]]:
    """The headers above that of IPv6 as far as they can be seen: their kinds, and where they begin."""
    kind, at = packet[6], 40
    yield kind, at
    while kind in (*ROUTING_HEADERS, FRAGMENT) and at + 8 <= len(packet):
        if kind == FRAGMENT:
            first = not U16.unpack_from(packet, at + 2)[0] & 0xFFF8
            kind, at = packet[at], at + 8 if first else len(packet)
        else:
            kind, at = packet[at], at + 8 + packet[at + 1] * 8
        yield kind, at


def _port(packet: bytes, protocol: int, above: int) -> int:
    if protocol not in WITH_PORTS or above + 4 > len(packet):
        return 0
    return int(U16.unpack_from(packet, above + 2)[0])
