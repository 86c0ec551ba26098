"""IPVS on the wire (generic netlink family `IPVS`, linux/ip_vs.h): services and destinations.

Our own codec: it is the hottest one, and the general library sends DEL for updates and knows no integer netmask.
"""

from __future__ import annotations

import socket
import sys
from binascii import unhexlify
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

import msgspec

from kuberouter.wire.netlink import ATTRIBUTE, GENL_HEADER, NLA_F_NESTED, attribute, attributes, text

FAMILY = "IPVS"
MODULE = "ip_vs"
CMD_NEW_SERVICE, CMD_SET_SERVICE, CMD_DEL_SERVICE, CMD_GET_SERVICE = 1, 2, 3, 4
CMD_NEW_DEST, CMD_SET_DEST, CMD_DEL_DEST, CMD_GET_DEST = 5, 6, 7, 8
CMD_SET_CONFIG, CMD_GET_CONFIG = 12, 13
ATTR_SERVICE, ATTR_DEST = 1, 2
ATTR_TIMEOUT_TCP, ATTR_TIMEOUT_TCP_FIN, ATTR_TIMEOUT_UDP = 4, 5, 6
SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK, SVC_SCHED_NAME, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK = range(1, 10)
SVC_STATS, SVC_STATS64 = 10, 12
DEST_ADDR, DEST_PORT, DEST_FWD, DEST_WEIGHT, DEST_U_THRESH, DEST_L_THRESH = 1, 2, 3, 4, 5, 6
DEST_ACTIVE_CONNS = 7
DEST_ADDR_FAMILY = 11
IP_VS_SVC_F_HASHED = 0x2

PORT = Struct(">H")
U16 = Struct("=H")
U32 = Struct("=I")
FLAGS = Struct("=II")
NETMASKS: dict[int, int] = {socket.AF_INET: 0xFFFFFFFF, socket.AF_INET6: 128}
"""The netmask of session affinity that tells every client from every other, by family."""
_ZERO = U32.pack(0)
_PAD = b"\0" * 12


class ServiceFacts(NamedTuple):
    """A virtual service as the kernel tells it. FWMARK services have neither address nor port."""

    family: int
    protocol: int
    address: bytes
    port: int
    fwmark: int
    scheduler: str
    flags: int
    timeout: int
    netmask: int


class DestinationFacts(msgspec.Struct, frozen=True, gc=False):
    """A destination as the kernel tells it. `active` are its connections that are open both ways, or opening."""

    address: bytes
    port: int
    weight: int
    forward: int
    active: int = 0


_SERVICE_KEY = Struct("=HHHxx HHHxx HH16s HHHxx")
"""Type and length of each attribute that names a service, its content and its padding: they are always the same."""


def service_key(family: int, protocol: int, address: bytes, port: int) -> bytes:
    """The attributes that name a service."""
    number = socket.htons(port)
    return _SERVICE_KEY.pack(6, SVC_AF, family, 6, SVC_PROTOCOL, protocol, 20, SVC_ADDR, address, 6, SVC_PORT, number)


def mark_key(family: int, mark: int) -> bytes:
    """The attributes that name a FWMARK service; the kernel looks at no others."""
    return attribute(SVC_AF, U16.pack(family)) + attribute(SVC_FWMARK, U32.pack(mark))


def service_reference(key: bytes) -> bytes:
    """Body of a command about an existing service."""
    return _service(len(key)) + key


def service_request(key: bytes, family: int, scheduler: str, flags: int, timeout: int, mask: int) -> bytes:
    """Body of NEW_SERVICE or SET_SERVICE; the kernel wants all of them each time.

    The netmask groups clients for session affinity: all ones for IPv4, the prefix length 128 for IPv6. `mask` names
    the flag bits that `flags` sets or clears.
    """
    manner = _manner(family, scheduler, flags, timeout, mask)
    return _service(len(key) + len(manner)) + key + manner


def _service(size: int) -> bytes:
    """The header before so many bytes of whole attributes of a service, which need no padding."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + size, ATTR_SERVICE | NLA_F_NESTED)


@lru_cache(maxsize=256)
def _manner(family: int, scheduler: str, flags: int, timeout: int, mask: int) -> bytes:
    """How a service balances; most do it alike."""
    return b"".join(
        (
            attribute(SVC_SCHED_NAME, scheduler.encode() + b"\0"),
            attribute(SVC_FLAGS, FLAGS.pack(flags, mask)),
            attribute(SVC_TIMEOUT, U32.pack(timeout)),
            attribute(SVC_NETMASK, U32.pack(NETMASKS[family])),
        )
    )


def destination_request(service: bytes, address: bytes, port: int, weight: int, forward: int) -> bytes:
    """Body of NEW_DEST, SET_DEST or DEL_DEST; `service` comes from `service_reference`."""
    return destination_start(service) + address + destination_end(len(address), port, weight, forward)


def destination_start(service: bytes) -> bytes:
    """What comes before the address in `destination_request`: the same for all destinations of a service."""
    return service + _DESTINATION_START


@lru_cache(maxsize=1024)
def destination_end(size: int, port: int, weight: int, forward: int) -> bytes:
    """What comes after an address of `size` bytes, padding included: the same for nearly all of a cluster."""
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    return b"".join(
        (
            _PAD if family == socket.AF_INET else b"",
            attribute(DEST_PORT, PORT.pack(port)),
            attribute(DEST_FWD, U32.pack(forward)),
            attribute(DEST_WEIGHT, U32.pack(weight)),
            attribute(DEST_U_THRESH, _ZERO),
            attribute(DEST_L_THRESH, _ZERO),
            attribute(DEST_ADDR_FAMILY, U16.pack(family)),
        )
    )


def _destination_start() -> bytes:
    """The headers before the address. All attributes have a fixed length, so the outer one knows its own."""
    address = ATTRIBUTE.pack(ATTRIBUTE.size + 16, DEST_ADDR)
    length = ATTRIBUTE.size + len(address) + 16 + len(destination_end(16, 0, 0, 0))
    return ATTRIBUTE.pack(length, ATTR_DEST | NLA_F_NESTED) + address


_DESTINATION_START = _destination_start()


def header(command: int) -> bytes:
    """The generic netlink header of a command."""
    return GENL_HEADER.pack(command, 1, 0)


def parse_service(body: bytes) -> ServiceFacts:
    """A service from an answer of a GET_SERVICE dump."""
    found = attributes(attributes(body, GENL_HEADER.size)[ATTR_SERVICE])
    family = U16.unpack(found[SVC_AF])[0]
    flags = FLAGS.unpack(found[SVC_FLAGS])[0] if SVC_FLAGS in found else 0
    return ServiceFacts(
        family,
        U16.unpack(found[SVC_PROTOCOL])[0] if SVC_PROTOCOL in found else 0,
        found.get(SVC_ADDR, b"")[: 4 if family == socket.AF_INET else 16],
        PORT.unpack(found[SVC_PORT])[0] if SVC_PORT in found else 0,
        U32.unpack(found[SVC_FWMARK])[0] if SVC_FWMARK in found else 0,
        text(found.get(SVC_SCHED_NAME, b"")),
        flags & ~IP_VS_SVC_F_HASHED,
        U32.unpack(found[SVC_TIMEOUT])[0] if SVC_TIMEOUT in found else 0,
        U32.unpack(found[SVC_NETMASK])[0] if SVC_NETMASK in found else 0,
    )


COUNTS = 10
"""Attributes in statistics, numbered from 1: connections, packets and bytes in and out, then the same per second."""
_KINDS = tuple(range(1, COUNTS + 1))
_IN_ORDER = Struct("=" + "HHQ" * COUNTS)


def parse_statistics(body: bytes) -> tuple[int, ...]:
    """What a service has counted, from an answer of a GET_SERVICE dump, in the order of `COUNTS`.

    Kernels before 4.1 tell 32 bits only of all but bytes; the number of bytes says which it is.
    """
    service = attributes(attributes(body, GENL_HEADER.size)[ATTR_SERVICE])
    statistics = service.get(SVC_STATS64) or service.get(SVC_STATS, b"")
    if len(statistics) == _IN_ORDER.size:
        # What most kernels tell: all of them, in order, without padding.
        fields = _IN_ORDER.unpack(statistics)
        if fields[1::3] == _KINDS:
            return fields[2::3]
    found = attributes(statistics)
    return tuple(int.from_bytes(found.get(kind, b""), sys.byteorder) for kind in _KINDS)


def parse_destination(body: bytes, family: int) -> DestinationFacts:
    """A destination from an answer of a GET_DEST dump of a service of this family."""
    found = attributes(attributes(body, GENL_HEADER.size)[ATTR_DEST])
    if DEST_ADDR_FAMILY in found:
        family = U16.unpack(found[DEST_ADDR_FAMILY])[0]
    return DestinationFacts(
        found[DEST_ADDR][: 4 if family == socket.AF_INET else 16],
        PORT.unpack(found[DEST_PORT])[0],
        U32.unpack(found[DEST_WEIGHT])[0],
        U32.unpack(found[DEST_FWD])[0] & 7,
        U32.unpack(found[DEST_ACTIVE_CONNS])[0] if DEST_ACTIVE_CONNS in found else 0,
    )


def timeout_request(kind: int, seconds: int) -> bytes:
    """Body of SET_CONFIG for one timer (`ATTR_TIMEOUT_*`); the others keep their values."""
    return attribute(kind, U32.pack(seconds))


def parse_timeouts(body: bytes) -> dict[int, int]:
    """Seconds by timer from the answer of GET_CONFIG; a kernel built without a protocol has no timer for it."""
    found = attributes(body, GENL_HEADER.size)
    kinds = (ATTR_TIMEOUT_TCP, ATTR_TIMEOUT_TCP_FIN, ATTR_TIMEOUT_UDP)
    return {kind: U32.unpack(found[kind])[0] for kind in kinds if kind in found}


Place = tuple[int, int, bytes, int]
"""Family, protocol, address and port of a virtual service."""
_PROTOCOLS = {b"TCP": socket.IPPROTO_TCP, b"UDP": socket.IPPROTO_UDP, b"SCTP": socket.IPPROTO_SCTP}
_FORWARDS = {b"Masq": 0, b"Local": 1, b"Tunnel": 2, b"Route": 3, b"Bypass": 4}
_DESTINATION = b"  -> "


def parse_table(text: bytes) -> dict[Place, list[DestinationFacts]]:
    """Destinations by service from /proc/net/ip_vs (`ip_vs_info_seq_show` in the kernel's ip_vs_ctl.c).

    FWMARK services and protocols other than TCP, UDP and SCTP are left out.
    """
    found: dict[Place, list[DestinationFacts]] = {}
    current: list[DestinationFacts] = []
    manners: dict[bytes, tuple[int, int, int]] = {}
    for line in text.splitlines():
        if line.startswith(_DESTINATION):
            if line[13:14] == b":" and line[38:39] == b" ":
                # IPv4, with each column in its place: what follows the address is the same for nearly all.
                manner = manners.get(line[14:38])
                if manner is None:
                    manner = manners[line[14:38]] = _columns(*line[14:38].split())
                current.append(DestinationFacts(unhexlify(line[5:13]), *manner))
                continue
            where, forward, weight = line[5:].split(None, 3)[:3]
            if weight != b"Weight":
                address, _, port = where.rpartition(b":")
                current.append(DestinationFacts(_address(address), *_columns(port, forward, weight)))
            continue
        current = []
        words = line.split(None, 2)
        if len(words) > 1 and (protocol := _PROTOCOLS.get(words[0])) is not None:
            where, _, port = words[1].rpartition(b":")
            address = _address(where)
            family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
            found[family, protocol, address, int(port, 16)] = current
    return found


def _address(word: bytes) -> bytes:
    """A packed address from `0A600001` or `[fd96:0000:...:0001]`."""
    return unhexlify(word.strip(b"[]").replace(b":", b""))


def _columns(port: bytes, forward: bytes, weight: bytes) -> tuple[int, int, int]:
    """Port, weight and forwarding method from the columns of a destination."""
    return int(port, 16), int(weight), _FORWARDS.get(forward, 3)
