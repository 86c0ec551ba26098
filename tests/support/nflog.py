"""Listens to what the kernel logs of packets: the records of an NFLOG group (linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.support.lab import netns
from tests.support.probes import PATIENCE

NETFILTER, GROUP = 12, 100
CONFIGURE, BIND, COPY_PACKET = 4 << 8 | 1, 1, 2
PAYLOAD, PREFIX = 9, 10


class Record(NamedTuple):
    """A packet that was logged."""

    prefix: str
    source: str


class Log:
    """The group of one network namespace."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire

    def find(self, wanted: Callable[[Record], bool], bound: float = 10.0) -> Record | None:
        """The first record from now on that is as wanted; None if it is too late."""
        end = time.monotonic() + bound * PATIENCE
        while (left := end - time.monotonic()) > 0:
            self._wire.settimeout(left)
            try:
                found = _parse(self._wire.recv(65536))
            except TimeoutError:
                return None
            if found is not None and wanted(found):
                return found
        return None


@contextlib.contextmanager
def listening(namespace: str) -> Iterator[Log]:
    """Listen in a namespace."""
    with netns.inside(namespace):
        wire = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
    with wire:
        wire.settimeout(10)
        for body in (_attribute(1, bytes([BIND])), _attribute(2, struct.pack(">IBB", 0xFFFF, COPY_PACKET, 0))):
            head = struct.pack("=IHHIIBBH", 20 + len(body), CONFIGURE, 1 | 4, 1, 0, 0, 0, socket.htons(GROUP))
            wire.send(head + body)
            assert struct.unpack_from("=IHHIIi", wire.recv(65536))[5] == 0
        yield Log(wire)


def _attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def _parse(data: bytes) -> Record | None:
    found: dict[int, bytes] = {}
    at, end = 20, struct.unpack_from("=I", data)[0]
    while at + 4 <= end:
        size, kind = struct.unpack_from("=HH", data, at)
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += size + 3 & ~3
    payload = found.get(PAYLOAD, b"")
    if PREFIX not in found or len(payload) < 20:
        return None
    where = slice(12, 16) if payload[0] >> 4 == 4 else slice(8, 24)
    return Record(found[PREFIX].rstrip(b"\0").decode(), str(ipaddress.ip_address(payload[where])))
