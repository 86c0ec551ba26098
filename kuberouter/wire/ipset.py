"""IP sets on the wire (nfnetlink, linux/netfilter/ipset/ip_set.h): create, destroy, many entries in one message, dump.

Pure packing and unpacking. An entry is (packed address, prefix length, protocol, port); length, protocol and port are
used as the set's type says.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from kuberouter.wire.netlink import NLA_F_NET_BYTEORDER, attribute, attributes, each_attribute, nested, text

NETLINK_NETFILTER = 12
NFNL_SUBSYS_IPSET = 6
IPSET_CMD_CREATE, IPSET_CMD_DESTROY, IPSET_CMD_FLUSH, IPSET_CMD_SWAP, IPSET_CMD_LIST = 2, 3, 4, 6, 7
IPSET_CMD_ADD, IPSET_CMD_DEL = 9, 10
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY, ATTR_FLAGS, ATTR_DATA = 1, 2, 3, 4, 5, 6, 7
ATTR_ADT, ATTR_LINENO = 8, 9
ATTR_IP, ATTR_CIDR, ATTR_PORT, ATTR_PROTO = 1, 3, 4, 7
ATTR_HASHSIZE, ATTR_MAXELEM = 18, 19
ATTR_IPADDR_IPV4, ATTR_IPADDR_IPV6 = 1, 2
IPSET_FLAG_LIST_SETNAME = 1 << 1

REVISIONS = {"hash:ip": 4, "hash:net": 6, "hash:ip,port": 5, "hash:net,port": 7}
"""Oldest revisions that every supported kernel has and that lack nothing we use."""
MAXELEM = 1 << 20
ERRORS = {
    4097: "IPSET_ERR_PROTOCOL: kernel and daemon disagree on the protocol",
    4098: "IPSET_ERR_FIND_TYPE: the kernel has no such set type",
    4099: "IPSET_ERR_MAX_SETS: too many sets",
    4100: "IPSET_ERR_BUSY: the set is in use",
    4102: "IPSET_ERR_TYPE_MISMATCH: the set exists with another type",
    4103: "IPSET_ERR_EXIST: entry exists or is missing",
    4104: "IPSET_ERR_INVALID_CIDR: prefix length out of range",
    4352: "IPSET_ERR_HASH_FULL: the set is full",
}

NFGEN = Struct("=BBH")
PORT = Struct(">H")
U32 = Struct(">I")
Entry = tuple[bytes, int, int, int]

_PROTOCOL = attribute(ATTR_PROTOCOL, b"\7")


def message_type(command: int) -> int:
    """Netlink message type of an ipset command."""
    return NFNL_SUBSYS_IPSET << 8 | command


def _head(name: str, family: int = socket.AF_INET) -> bytes:
    return NFGEN.pack(family, 0, 0) + _PROTOCOL + attribute(ATTR_SETNAME, name.encode() + b"\0")


def create_request(name: str, kind: str, family: int, hashsize: int) -> bytes:
    """Body of a create; `hashsize` is the number of buckets to begin with (a power of two)."""
    return b"".join(
        (
            _head(name, family),
            attribute(ATTR_TYPENAME, kind.encode() + b"\0"),
            attribute(ATTR_REVISION, bytes((REVISIONS[kind],))),
            attribute(ATTR_FAMILY, bytes((family,))),
            nested(
                ATTR_DATA,
                attribute(ATTR_HASHSIZE | NLA_F_NET_BYTEORDER, U32.pack(hashsize)),
                attribute(ATTR_MAXELEM | NLA_F_NET_BYTEORDER, U32.pack(MAXELEM)),
            ),
        )
    )


def set_request(name: str) -> bytes:
    """Body of a destroy or flush of one set."""
    return _head(name)


def _entry(entry: Entry) -> bytes:
    address, length, protocol, port = entry
    version = ATTR_IPADDR_IPV4 if len(address) == 4 else ATTR_IPADDR_IPV6
    body = nested(ATTR_IP, attribute(version | NLA_F_NET_BYTEORDER, address))
    if length < len(address) * 8:
        body += attribute(ATTR_CIDR, bytes((length,)))
    if protocol:
        body += attribute(ATTR_PORT | NLA_F_NET_BYTEORDER, PORT.pack(port)) + attribute(ATTR_PROTO, bytes((protocol,)))
    return body + attribute(ATTR_LINENO | NLA_F_NET_BYTEORDER, b"\0\0\0\0")


def _plain(size: int) -> tuple[bytes, bytes]:
    """What stands before and after the address in the entry of a whole address without port: the usual one."""
    address = bytes(range(1, size + 1))
    before, _, after = nested(ATTR_DATA, _entry((address, size * 8, 0, 0))).partition(address)
    return before, after


_PLAIN = {size: _plain(size) for size in (4, 16)}


def _item(entry: Entry) -> bytes:
    address, length, protocol, _ = entry
    size = len(address)
    if protocol or length != size * 8:
        return nested(ATTR_DATA, _entry(entry))
    before, after = _PLAIN[size]
    return before + address + after


def entries_request(name: str, entries: Iterable[Entry]) -> bytes:
    """Body of an add or delete of several entries. The kernel stops at the first entry that it refuses."""
    data = b"".join(map(_item, entries))
    line = attribute(ATTR_LINENO | NLA_F_NET_BYTEORDER, b"\0\0\0\0")
    return _head(name) + line + nested(ATTR_ADT, data)


def entry_request(name: str, entry: Entry) -> bytes:
    """Body of an add or delete of one entry."""
    return _head(name) + nested(ATTR_DATA, _entry(entry))


def list_request(names_only: bool) -> bytes:
    """Body of a dump of all sets, with or without headers and entries."""
    flags = attribute(ATTR_FLAGS | NLA_F_NET_BYTEORDER, U32.pack(IPSET_FLAG_LIST_SETNAME)) if names_only else b""
    return NFGEN.pack(socket.AF_UNSPEC, 0, 0) + _PROTOCOL + flags


class SetPart(NamedTuple):
    """A part of a set from a dump: big sets come in several. `body` holds the attributes."""

    name: str
    body: bytes


def parse_part(body: bytes) -> SetPart:
    """Name of the set that an answer of a dump is about, and the rest unparsed."""
    for kind, payload in each_attribute(body, NFGEN.size):
        if kind == ATTR_SETNAME:
            return SetPart(text(payload), body)
    return SetPart("", body)


def parse_header(part: SetPart) -> tuple[str, int] | None:
    """Type name and family of a set; None in the parts that carry entries only."""
    found = attributes(part.body, NFGEN.size)
    if ATTR_TYPENAME not in found:
        return None
    return text(found[ATTR_TYPENAME]), found.get(ATTR_FAMILY, b"\0")[0]


def parse_entries(part: SetPart) -> Iterator[Entry]:
    """The entries in one part of a dumped set."""
    found = attributes(part.body, NFGEN.size)
    for _, data in each_attribute(found.get(ATTR_ADT, b"")):
        fields = attributes(data)
        address = next(iter(attributes(fields.get(ATTR_IP, b"")).values()), b"")
        if not address:
            continue
        length = fields[ATTR_CIDR][0] if ATTR_CIDR in fields else len(address) * 8
        protocol = fields[ATTR_PROTO][0] if ATTR_PROTO in fields else 0
        port = PORT.unpack(fields[ATTR_PORT][:2])[0] if ATTR_PORT in fields and protocol else 0
        yield address, length, protocol, port
