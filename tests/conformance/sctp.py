"""Just enough SCTP for a first packet and its answer, out of raw sockets: not every kernel has SCTP of its own.

A probe is an INIT chunk, an answer the INIT ACK (RFC 9260, sections 3.3.2 and 3.3.3). Both carry true checksums, for
connection tracking takes packets with wrong ones for invalid.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

NUMBER = 132
INIT, INIT_ACK = 1, 2
_HEADER = struct.Struct("!HHI")
_BODY = struct.Struct("!IIHHI")
_COOKIE = struct.pack("!HHI", 7, 8, 0)
_POLYNOMIAL = 0x82F63B78


def _table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        yield value


_TABLE = tuple(_table())


def checksum(data: bytes) -> bytes:
    """CRC32c as SCTP writes it (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return struct.pack("<I", value ^ 0xFFFFFFFF)


def packet(kind: int, source: int, target: int, tag: int, verification: int = 0) -> bytes:
    """An INIT or INIT ACK chunk in a packet; `tag` is what the sender wants to be addressed by."""
    body = _BODY.pack(tag, 65536, 1, 1, tag) + (_COOKIE if kind == INIT_ACK else b"")
    head = _HEADER.pack(source, target, verification)
    chunk = struct.pack("!BBH", kind, 0, 4 + len(body)) + body
    return head + checksum(head + bytes(4) + chunk) + chunk


def parse(data: bytes) -> tuple[int, int, int, int, int] | None:
    """Kind of the first chunk, source port, target port, verification tag and tag; None for anything shorter."""
    if len(data) < 32:
        return None
    source, target, verification = _HEADER.unpack_from(data)
    return data[12], source, target, verification, _BODY.unpack_from(data, 16)[0]


def ports(data: bytes) -> tuple[int, int]:
    """Source and target port out of the beginning of a packet."""
    source, target = struct.unpack_from("!HH", data)
    return source, target


def raw(family: int) -> socket.socket:
    """A raw socket; what it receives in IPv4 begins with the IP header."""
    made = socket.socket(family, socket.SOCK_RAW, NUMBER)
    made.setblocking(False)
    return made


def bare(sock: socket.socket, data: bytes) -> bytes:
    """A received packet without its IP header."""
    return data[(data[0] & 15) * 4 :] if sock.family == socket.AF_INET else data


def reply(data: bytes, served: set[int]) -> bytes:
    """The answer to an INIT for a served port; empty for everything else."""
    found = parse(data)
    if found is None or found[0] != INIT or found[2] not in served:
        return b""
    _, source, target, _, tag = found
    return packet(INIT_ACK, target, source, tag ^ 0xFFFFFFFF, tag)
