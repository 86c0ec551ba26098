"""IP sets on the wire (nfnetlink, linux/netfilter/ipset/ip_set.h): create, destroy, many entries in one message, dump.

Pure packing and unpacking. An entry is (packed address, prefix length, protocol, port); length, protocol and port are
used as the set's type says. Entries of hash:ip,port,net sets have a network besides: (..., packed address, length).
Entries of sets that are made with marks carry one.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
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
ATTR_CADT_FLAGS = 8
ATTR_IP2, ATTR_CIDR2, ATTR_SKBMARK = 20, 21, 27
ATTR_HASHSIZE, ATTR_MAXELEM, ATTR_ELEMENTS = 18, 19, 24
ATTR_IPADDR_IPV4, ATTR_IPADDR_IPV6 = 1, 2
IPSET_FLAG_LIST_HEADER = 1 << 2
IPSET_FLAG_WITH_SKBINFO = 1 << 6

REVISIONS = {"hash:ip": 4, "hash:net": 6, "hash:ip,port": 5, "hash:net,port": 7, "hash:ip,port,net": 7}
"""Oldest revisions that every supported kernel has and that lack nothing we use."""
MAXELEM = 1 << 20
IPSET_ERR_BUSY = 4100
ERRORS = {
    4097: "IPSET_ERR_PROTOCOL: kernel and daemon disagree on the protocol",
    4098: "IPSET_ERR_FIND_TYPE: the kernel has no such set type",
    4099: "IPSET_ERR_MAX_SETS: too many sets",
    IPSET_ERR_BUSY: "IPSET_ERR_BUSY: the set is in use",
    4102: "IPSET_ERR_TYPE_MISMATCH: the set exists with another type",
    4103: "IPSET_ERR_EXIST: entry exists or is missing",
    4104: "IPSET_ERR_INVALID_CIDR: prefix length out of range",
    4352: "IPSET_ERR_HASH_FULL: the set is full",
}

NFGEN = Struct("=BBH")
PORT = Struct(">H")
U32 = Struct(">I")
MARK = Struct(">II")
"""A mark and the bits that it covers."""
WHOLE_MARK = 0xFFFF_FFFF
Entry = tuple[bytes, int, int, int]
SourcedEntry = tuple[bytes, int, int, int, bytes, int]

_PROTOCOL = attribute(ATTR_PROTOCOL, b"\7")


def message_type(command: int) -> int:
    """Netlink message type of an ipset command."""
    return NFNL_SUBSYS_IPSET << 8 | command


def _head(name: str, family: int = socket.AF_INET) -> bytes:
    return NFGEN.pack(family, 0, 0) + _PROTOCOL + attribute(ATTR_SETNAME, name.encode() + b"\0")


def create_request(name: str, kind: str, family: int, hashsize: int, *, marks: bool = False) -> bytes:
    """Body of a create; `hashsize` is the number of buckets to begin with (a power of two)."""
    return _head(name, family) + _properties(kind, family, hashsize, marks)


@lru_cache(maxsize=256)
def _properties(kind: str, family: int, hashsize: int, marks: bool) -> bytes:
    flags = attribute(ATTR_CADT_FLAGS | NLA_F_NET_BYTEORDER, U32.pack(IPSET_FLAG_WITH_SKBINFO)) if marks else b""
    return b"".join(
        (
            attribute(ATTR_TYPENAME, kind.encode() + b"\0"),
            attribute(ATTR_REVISION, bytes((REVISIONS[kind],))),
            attribute(ATTR_FAMILY, bytes((family,))),
            nested(
                ATTR_DATA,
                attribute(ATTR_HASHSIZE | NLA_F_NET_BYTEORDER, U32.pack(hashsize)),
                attribute(ATTR_MAXELEM | NLA_F_NET_BYTEORDER, U32.pack(MAXELEM)),
                flags,
            ),
        )
    )


def set_request(name: str) -> bytes:
    """Body of a destroy or flush of one set."""
    return _head(name)


def swap_request(name: str, other: str) -> bytes:
    """Body of a swap: the two sets exchange their content; rules go on to refer to the name."""
    return _head(name) + attribute(ATTR_TYPENAME, other.encode() + b"\0")


# --- entries ---------------------------------------------------------------------------------------------------------
#
# Hundreds of thousands of entries are packed and read, and nearly all have one of two shapes for each address size: a
# whole address, or that with a port. Those are made and taken apart by one Struct each; attribute by attribute the
# same work is ten times as long.


def _entry(entry: Entry | SourcedEntry, mark: int = 0) -> bytes:
    address, length, protocol, port, *source = entry
    body = _address(ATTR_IP, address)
    if length < len(address) * 8:
        body += attribute(ATTR_CIDR, bytes((length,)))
    if protocol:
        body += attribute(ATTR_PORT | NLA_F_NET_BYTEORDER, PORT.pack(port)) + attribute(ATTR_PROTO, bytes((protocol,)))
    if source:
        network, bits = source
        assert isinstance(network, bytes)
        assert isinstance(bits, int)
        body += _address(ATTR_IP2, network) + attribute(ATTR_CIDR2, bytes((bits,)))
    if mark:
        body += attribute(ATTR_SKBMARK | NLA_F_NET_BYTEORDER, MARK.pack(mark, WHOLE_MARK))
    return nested(ATTR_DATA, body)


def _address(kind: int, address: bytes) -> bytes:
    version = ATTR_IPADDR_IPV4 if len(address) == 4 else ATTR_IPADDR_IPV6
    return nested(kind, attribute(version | NLA_F_NET_BYTEORDER, address))


class _Shape:
    """Entries of whole addresses of one size, alone and with a port, as fixed parts and what stands between them.

    In what the kernel tells (`dumped`) addresses lack the flag that says in which order their bytes are.
    """

    def __init__(self, size: int, *, dumped: bool = False) -> None:
        address = bytes(range(1, size + 1))
        self.length = size * 8
        self.before, _, _ = _entry((address, self.length, 0, 0)).partition(address)
        self.alone = Struct(f"{len(self.before)}s{size}s")
        with_port = _entry((address, self.length, 0xAA, 0xBBCC))
        self.before_ported, _, rest = with_port.partition(address)
        self.before_port, self.before_protocol = rest[:4], rest[8:12]
        self.ported = Struct(f">{len(self.before_ported)}s{size}s4sH2x4sB3x")
        if dumped:
            kind = (ATTR_IPADDR_IPV4 if size == 4 else ATTR_IPADDR_IPV6).to_bytes(2, sys.byteorder)
            self.before, self.before_ported = self.before[:-2] + kind, self.before_ported[:-2] + kind


_SHAPES = {size: _Shape(size) for size in (4, 16)}
_DUMPED = tuple(_Shape(size, dumped=True) for size in (4, 16))


def _item(entry: Entry) -> bytes:
    address, length, protocol, port = entry
    shape = _SHAPES[len(address)]
    if length != shape.length or not protocol:
        return _entry(entry)
    return shape.ported.pack(shape.before_ported, address, shape.before_port, port, shape.before_protocol, protocol)


def addresses_request(name: str, addresses: Sequence[bytes]) -> bytes:
    """Body of an add or delete of several whole addresses of one size without ports."""
    before = _SHAPES[len(addresses[0])].before
    return _several(name, before + before.join(addresses))


def entries_request(name: str, entries: Iterable[Entry]) -> bytes:
    """Body of an add or delete of several entries. The kernel stops at the first entry that it refuses."""
    return _several(name, b"".join(map(_item, entries)))


def marked_request(name: str, entries: Iterable[tuple[Entry, int]]) -> bytes:
    """Body of an add of several entries with marks; one that exists gets the new mark."""
    return _several(name, b"".join(_entry(entry, mark) for entry, mark in entries))


def sourced_request(name: str, entries: Iterable[SourcedEntry]) -> bytes:
    """Body of an add or delete of several entries of a hash:ip,port,net set."""
    return _several(name, b"".join(map(_entry, entries)))


_LINE = attribute(ATTR_LINENO | NLA_F_NET_BYTEORDER, b"\0\0\0\0")
"""The kernel wants a line number beside several entries, though it is for texts only."""


def _several(name: str, data: bytes) -> bytes:
    return _head(name) + _LINE + nested(ATTR_ADT, data)


def entry_request(name: str, entry: Entry | SourcedEntry, mark: int = 0) -> bytes:
    """Body of an add or delete of one entry."""
    return _head(name) + _entry(entry, mark)


def list_request(*, entries: bool, name: str = "") -> bytes:
    """Body of a dump of all sets, or of the one of this name, with or without their entries."""
    head = _head(name) if name else NFGEN.pack(socket.AF_UNSPEC, 0, 0) + _PROTOCOL
    flags = b"" if entries else attribute(ATTR_FLAGS | NLA_F_NET_BYTEORDER, U32.pack(IPSET_FLAG_LIST_HEADER))
    return head + flags


class SetPart(NamedTuple):
    """A part of a set from a dump, as attributes: big sets come in several parts."""

    name: str
    found: dict[int, bytes]

    @property
    def kind(self) -> str:
        """Type name of the set; empty in the parts that carry entries only."""
        return text(self.found.get(ATTR_TYPENAME, b""))

    @property
    def family(self) -> int:
        """Address family of the set; 0 in the parts that carry entries only."""
        return self.found.get(ATTR_FAMILY, b"\0")[0]

    @property
    def marks(self) -> bool:
        """Whether the entries have marks; False in the parts that carry entries only."""
        data = attributes(self.found.get(ATTR_DATA, b""))
        return bool(int.from_bytes(data.get(ATTR_CADT_FLAGS, b"")) & IPSET_FLAG_WITH_SKBINFO)


def parse_part(body: bytes) -> SetPart:
    """Which set an answer of a dump is about, and what it says."""
    found = attributes(body, NFGEN.size)
    return SetPart(text(found.get(ATTR_SETNAME, b"")), found)


def parse_size(part: SetPart) -> tuple[int, int]:
    """How many buckets a set has, and how many entries."""
    data = attributes(part.found.get(ATTR_DATA, b""))
    return int.from_bytes(data.get(ATTR_HASHSIZE, b"")), int.from_bytes(data.get(ATTR_ELEMENTS, b""))


def parse_entries(part: SetPart) -> Sequence[Entry | SourcedEntry]:
    """The entries in one part of a dumped set."""
    data = part.found.get(ATTR_ADT, b"")
    return _alike(data) or [entry for _, each in each_attribute(data) if (entry := _parse(each)) is not None]


def parse_marks(part: SetPart) -> list[tuple[Entry | SourcedEntry, int]]:
    """The entries in one part of a dumped set whose entries have marks, with these."""
    found: list[tuple[Entry | SourcedEntry, int]] = []
    for _, each in each_attribute(part.found.get(ATTR_ADT, b"")):
        entry, mark = _parse(each), attributes(each).get(ATTR_SKBMARK)
        if entry is not None:
            found.append((entry, MARK.unpack(mark)[0] if mark is not None else 0))
    return found


def _alike(data: bytes) -> list[Entry]:
    """All entries, if they have one of the usual shapes and nothing else; none otherwise."""
    for shape in _DUMPED:
        length, before = shape.length, shape.before
        if data.startswith(before) and not len(data) % shape.alone.size:
            rows = list(shape.alone.iter_unpack(data))
            if all(head == before for head, _ in rows):
                return [(address, length, 0, 0) for _, address in rows]
        fixed = (shape.before_ported, shape.before_port, shape.before_protocol)
        if data.startswith(shape.before_ported) and not len(data) % shape.ported.size:
            ported = list(shape.ported.iter_unpack(data))
            if all((first, second, third) == fixed for first, _, second, _, third, _ in ported):
                return [(address, length, protocol, port) for _, address, _, port, _, protocol in ported]
    return []


def _parse(data: bytes) -> Entry | SourcedEntry | None:
    fields = attributes(data)
    address = next(iter(attributes(fields.get(ATTR_IP, b"")).values()), b"")
    if not address:
        return None
    length = fields[ATTR_CIDR][0] if ATTR_CIDR in fields else len(address) * 8
    protocol = fields[ATTR_PROTO][0] if ATTR_PROTO in fields else 0
    port = PORT.unpack(fields[ATTR_PORT][:2])[0] if ATTR_PORT in fields and protocol else 0
    if ATTR_IP2 not in fields:
        return address, length, protocol, port
    network = next(iter(attributes(fields[ATTR_IP2]).values()), b"")
    bits = fields[ATTR_CIDR2][0] if ATTR_CIDR2 in fields else len(network) * 8
    return address, length, protocol, port, network, bits
