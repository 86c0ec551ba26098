"""Connection tracking on the wire (ctnetlink, linux/netfilter/nfnetlink_conntrack.h): dump flows, delete single ones.

Filters of the kernel are used to have less to read, never to decide: older kernels know none, and the comparison of
IPv6 addresses is the wrong way round even in new ones. Whoever deletes names one flow by its tuple and its number.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import NamedTuple

from kuberouter.wire.netlink import NLA_TYPE_MASK, attribute, attributes, nested

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_TUPLE_ZONE = 1, 2, 3
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS = 1
FILTER_IP_DST, FILTER_PROTO_NUM, FILTER_PROTO_DST_PORT = 0x2, 0x8, 0x20

NFGEN = Struct("=BBH")
PORT = Struct(">H")
U32 = Struct("=I")

GET = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
DELETE = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
"""Netlink message types."""


class Flow(NamedTuple):
    """Where a flow began to go, and who answers. Packed addresses, host-order ports."""

    protocol: int
    address: bytes
    port: int
    answering: bytes
    answering_port: int


def dump_request(family: int, protocol: int, address: bytes = b"", port: int = 0) -> bytes:
    """Body of a dump of the flows of a family and protocol, to an address and port if given.

    What comes may be more than what was asked for. IPv6 addresses are not asked for: the kernel would leave out those.
    """
    flags = FILTER_PROTO_NUM
    ip = b""
    proto = attribute(CTA_PROTO_NUM, bytes((protocol,)))
    if port:
        flags |= FILTER_PROTO_DST_PORT
        proto += attribute(CTA_PROTO_DST_PORT, PORT.pack(port))
    if len(address) == 4:
        flags |= FILTER_IP_DST
        ip = nested(CTA_TUPLE_IP, attribute(CTA_IP_V4_DST, address))
    return (
        NFGEN.pack(family, 0, 0)
        + nested(CTA_TUPLE_ORIG, ip, nested(CTA_TUPLE_PROTO, proto))
        + nested(CTA_FILTER, attribute(CTA_FILTER_ORIG_FLAGS, U32.pack(flags)))
    )


# Tables hold hundreds of thousands of flows, and nearly all have one shape in each family: first the tuples of both
# directions, each of two addresses, a protocol and two ports. Those are taken apart by one Struct each.
_SHAPES = {
    length: (size, Struct(f"=HH4x4x{length}s4x{length}s4x4xB3x4x2s2x4x2s2x")) for length, size in ((4, 52), (16, 76))
}
_LENGTH: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}


def parse_flow(body: bytes) -> Flow | None:
    """A flow from an answer of a dump; None for one of a protocol without ports."""
    size, shape = _SHAPES[_LENGTH.get(body[0], 4)]
    at = NFGEN.size
    if len(body) >= at + 2 * size:
        length, kind, _, address, protocol, _, port = shape.unpack_from(body, at)
        other, back, answering, _, _, answering_port, _ = shape.unpack_from(body, at + size)
        if length == other == size and (kind & NLA_TYPE_MASK, back & NLA_TYPE_MASK) == _TUPLES:
            return Flow(protocol, address, int.from_bytes(port), answering, int.from_bytes(answering_port))
    found = attributes(body, at)
    return _flow(attributes(found[CTA_TUPLE_ORIG]), attributes(found[CTA_TUPLE_REPLY]))


_TUPLES = (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)


def _flow(original: dict[int, bytes], reply: dict[int, bytes]) -> Flow | None:
    there, proto = attributes(original[CTA_TUPLE_IP]), attributes(original[CTA_TUPLE_PROTO])
    back, answer = attributes(reply[CTA_TUPLE_IP]), attributes(reply[CTA_TUPLE_PROTO])
    if CTA_PROTO_DST_PORT not in proto or CTA_PROTO_SRC_PORT not in answer:
        return None
    return Flow(
        proto[CTA_PROTO_NUM][0],
        there.get(CTA_IP_V4_DST) or there[CTA_IP_V6_DST],
        PORT.unpack(proto[CTA_PROTO_DST_PORT])[0],
        back.get(CTA_IP_V4_SRC) or back[CTA_IP_V6_SRC],
        PORT.unpack(answer[CTA_PROTO_SRC_PORT])[0],
    )


def delete_request(body: bytes) -> bytes | None:
    """Body of the deletion of a flow from an answer of a dump, and of no other: what took its place has another number.

    None for a flow in a zone: those are separate tables of whoever set them up, and nothing of ours is there.
    """
    found = attributes(body, NFGEN.size)
    if CTA_ZONE in found or CTA_TUPLE_ZONE in attributes(found[CTA_TUPLE_ORIG]):
        return None
    return NFGEN.pack(body[0], 0, 0) + nested(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG]) + attribute(CTA_ID, found[CTA_ID])
