"""Raw netlink in batches: pack once, send many messages at a time, match every answer to its message (netlink(7)).

Nothing here knows what the messages mean. The kernel executes the messages of one send in order and does not stop at
an error; it answers with one error per failed message and an acknowledgement where one was asked for.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from types import TracebackType
from typing import NamedTuple, Self

from kuberouter.model.core import Unavailable

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3FFF
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LISTEN_ALL_NSID = 8
NETLINK_CAP_ACK = 10
NETLINK_GET_STRICT_CHK = 12
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

PER_SEND = 500
"""Messages per system call; more gains nothing measurable and risks the receive buffer when all of them fail."""
SEND_BYTES = 2 << 20
"""Most bytes per system call, if it is more than one message: the kernel refuses more than the send buffer."""
BUFFER = 4 << 20
DUMP_TRIES = 30
"""How often a dump is repeated that the kernel says was interrupted by a change."""

HEADER = Struct("=IHHII")
ATTRIBUTE = Struct("=HH")
ERROR = Struct("=i")

Message = tuple[int, int, bytes]
"""Message type, extra flags beside NLM_F_REQUEST, and everything after the netlink header."""

_own_ports: set[tuple[int, int]] = set()
"""Protocol and port id of each open socket of this process; a notice names the port whose request caused it."""


_children: deque[int] = deque(maxlen=256)
"""Process ids of the tools that were run last: the port of a process's first socket is its id."""
_starting = threading.Lock()
"""Held while a tool starts: what it does before we know its id waits for the judgement."""


def adopt(protocol: int, port: int) -> None:
    """Take what comes from a socket that a library opened in this process as our own doing."""
    _own_ports.add((protocol, port))


def adopt_child(pid: int) -> None:
    """Take what a tool does that this process runs as our own doing."""
    _children.append(pid)


def start_adopted(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a tool and take as our own doing what it does, from its first moment: it may be done before we are told."""
    with _starting:
        child = start()
        _children.append(child.pid)
    return child


def _is_own(protocol: int, port: int) -> bool:
    if port == 0:
        return False
    if (protocol, port) in _own_ports or port in _children:
        return True
    with _starting:
        return port in _children


class Notice(NamedTuple):
    """A multicast message: its type, what follows the netlink header, and whether a request of ours caused it."""

    kind: int
    body: bytes
    ours: bool


_PADDING = (b"", bytes(3), bytes(2), bytes(1))


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute (struct nlattr), padded to four bytes."""
    length = 4 + len(payload)
    return ATTRIBUTE.pack(length, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


Around = tuple[bytes, bytes]
"""What stands before and behind some bytes in a message; the same for all that are as long, so it is made once."""


def around(make: Callable[[bytes], bytes], size: int) -> Around:
    """What `make` puts around so many bytes, whatever they are."""
    if not size:
        return make(b""), b""
    one, other = make(bytes(size)), make(b"\xff" * size)
    at = next(index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    return one[:at], one[at + size :]


def attributes(buffer: bytes, offset: int = 0, end: int | None = None) -> dict[int, bytes]:
    """The attributes in `buffer[offset:end]` by type without flag bits; of repeated ones the last."""
    stop = len(buffer) if end is None else end
    unpack = ATTRIBUTE.unpack_from
    found: dict[int, bytes] = {}
    # Not by way of `each_attribute`: whole tables are read with this.
    while offset + 4 <= stop:
        length, kind = unpack(buffer, offset)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def each_attribute(buffer: bytes, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Every attribute in `buffer[offset:end]` in order as (type without flag bits, payload)."""
    stop = len(buffer) if end is None else end
    unpack = ATTRIBUTE.unpack_from
    while offset + 4 <= stop:
        length, kind = unpack(buffer, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def text(payload: bytes) -> str:
    """A NUL-terminated string attribute."""
    return payload.rstrip(b"\0").decode(errors="replace")


def error_text(code: int) -> str:
    """Name and meaning of an errno, for example `ENODEV: No such device`."""
    return f"{errno.errorcode.get(code, code)}: {os.strerror(code)}"


class NetlinkSocket:
    """One netlink socket of one protocol, in the network namespace of the thread that made it.

    Every receive is bounded by `timeout` seconds; a kernel that stays silent raises Unavailable.
    """

    def __init__(
        self,
        protocol: int,
        *,
        groups: Sequence[int] = (),
        strict: bool = False,
        timeout: float = 10.0,
        buffer: int = BUFFER,
    ):
        """`buffer` is how many bytes may wait to be received, as the kernel counts them: with what it needs itself."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise Unavailable(f"netlink protocol {protocol} is missing: {error.strerror}") from error
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
        # Errors then carry no copy of the request.
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        if strict:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._socket.settimeout(timeout)
        self._port: tuple[int, int] = (protocol, self._socket.getsockname()[0])
        _own_ports.add(self._port)
        self._sequence = 0
        self._buffer = bytearray(1 << 18)
        self._view = memoryview(self._buffer)

    def listen_everywhere(self) -> None:
        """Have notices also from the namespaces that have a number here: of those that a link of ours leads to."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)

    def close(self) -> None:
        """Give the socket back."""
        self._view.release()
        self._end()

    def __del__(self) -> None:
        # A driver lives as long as its table; its socket goes with it.
        if hasattr(self, "_port"):
            self._end()

    def _end(self) -> None:
        if self._socket.fileno() >= 0:
            _own_ports.discard(self._port)
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transact(self, messages: Sequence[Message]) -> list[int]:
        """Send messages in batches. Returns per message its errno, 0 where the kernel did what was asked."""
        results = [0] * len(messages)
        for start in range(0, len(messages), PER_SEND):
            self._send_part(messages[start : start + PER_SEND], start, results)
        return results

    def _send_part(self, part: Sequence[Message], start: int, results: list[int]) -> None:
        pack = HEADER.pack
        first, last = self._sequence + 1, self._sequence + len(part)
        packed = [
            pack(16 + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body
            for sequence, (kind, flags, body) in enumerate(part[:-1], first)
        ]
        # Only the last message asks for an answer; the others answer when they fail.
        kind, flags, body = part[-1]
        packed.append(pack(16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, last, 0) + body)
        data = b"".join(packed)
        if len(data) > SEND_BYTES and len(part) > 1:
            middle = len(part) // 2
            self._send_part(part[:middle], start, results)
            self._send_part(part[middle:], start + middle, results)
            return
        self._sequence = last
        self._socket.send(data)
        done = False
        while not done:
            data = self._receive()
            for kind, _, sequence, at, _ in _messages(data):
                if kind != NLMSG_ERROR or not first <= sequence <= last:
                    continue
                results[start + sequence - first] = -ERROR.unpack_from(data, at)[0]
                done = done or sequence == last

    def ask(self, kind: int, body: bytes) -> bytes:
        """The one answer to a request that is no dump, without netlink header. Raises OSError as the kernel does."""
        self._sequence += 1
        wanted = self._sequence
        self._socket.send(HEADER.pack(16 + len(body), kind, NLM_F_REQUEST, wanted, 0) + body)
        while True:
            data = self._receive()
            for answer, _, sequence, at, end in _messages(data):
                if sequence != wanted:
                    continue
                if answer == NLMSG_ERROR:
                    code = -ERROR.unpack_from(data, at)[0]
                    raise OSError(code, os.strerror(code))
                return data[at:end]

    def dump(
        self, kind: int, body: bytes, flags: int = 0, *, keep: Callable[[bytes], bool] | None = None
    ) -> list[bytes]:
        """Every answer to a dump request that `keep` wants, without netlink headers.

        A dump that the kernel marks as interrupted is repeated, so that nobody acts on half a picture. Of a family that
        the kernel does not have (booted with ipv6.disable=1) there is nothing. Raises OSError with the kernel's error.
        """
        for attempt in range(DUMP_TRIES):
            found, interrupted = self._dump_once(kind, body, flags, keep)
            if not interrupted:
                return found
            time.sleep(min(0.1, 0.001 * 2**attempt))
        raise Unavailable(f"the kernel's tables change faster than they can be read ({DUMP_TRIES} tries)")

    def _dump_once(
        self, kind: int, body: bytes, flags: int, keep: Callable[[bytes], bool] | None
    ) -> tuple[list[bytes], bool]:
        self._sequence += 1
        wanted = self._sequence
        header = HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP | flags, wanted, 0)
        self._socket.send(header + body)
        found: list[bytes] = []
        interrupted = False
        while True:
            data = self._receive()
            for answer, answer_flags, sequence, at, end in _messages(data):
                if sequence != wanted:
                    continue
                interrupted = interrupted or bool(answer_flags & NLM_F_DUMP_INTR)
                if answer in (NLMSG_DONE, NLMSG_ERROR):
                    code = -ERROR.unpack_from(data, at)[0] if end - at >= 4 else 0
                    if code == errno.EINTR:
                        return found, True
                    if code and code != errno.EAFNOSUPPORT:
                        raise OSError(code, os.strerror(code))
                    return found, interrupted
                answered = data[at:end]
                if keep is None or keep(answered):
                    found.append(answered)

    def notices(self, timeout: float, *, foreign: bool = False) -> list[Notice] | None:
        """Multicast messages that arrive within `timeout` seconds; empty when none did.

        None says that some were lost because they came faster than they were read: everything has to be read again.
        With `foreign` datagrams that begin with a notice about ourselves are left out; the kernel never mixes.
        """
        self._socket.settimeout(timeout)
        try:
            data = self._receive_raw()
        except TimeoutError:
            return []
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return None
            raise
        protocol = self._port[0]
        if foreign and len(data) >= 16 and _is_own(protocol, HEADER.unpack_from(data)[PORT]):
            return []
        return [Notice(kind, data[at:end], _is_own(protocol, port)) for kind, _, port, at, end in _messages(data, PORT)]

    def _receive(self) -> bytes:
        try:
            return self._receive_raw()
        except TimeoutError as error:
            raise Unavailable("the kernel did not answer on netlink in time") from error

    def _receive_raw(self) -> bytes:
        return bytes(self._view[: self._socket.recv_into(self._buffer)])


SEQUENCE, PORT = 3, 4
"""Where the header holds the number of the request that is answered, and the port of the one that caused a notice."""


def _messages(data: bytes, third: int = SEQUENCE) -> Iterator[tuple[int, int, int, int, int]]:
    """Type, flags, sequence (or port), start and end of the body of each message in a datagram."""
    offset = 0
    unpack = HEADER.unpack_from
    while offset + 16 <= len(data):
        header = unpack(data, offset)
        length = header[0]
        if length < 16:
            return
        yield header[1], header[2], header[third], offset + 16, offset + length
        offset += (length + 3) & ~3


GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2
GENL_HEADER = Struct("=BBH")
NETLINK_GENERIC = 16


def generic_family(link: NetlinkSocket, name: str, module: str) -> int:
    """Number of a generic netlink family; Unavailable names the kernel module when there is no such family."""
    body = GENL_HEADER.pack(CTRL_CMD_GETFAMILY, 1, 0)
    try:
        for answer in link.dump(GENL_ID_CTRL, body):
            found = attributes(answer, 4)
            if text(found.get(CTRL_ATTR_FAMILY_NAME, b"")) == name:
                return int.from_bytes(found[CTRL_ATTR_FAMILY_ID][:2], "little")
    except OSError as error:
        raise Unavailable(f"generic netlink cannot be read: {error.strerror}") from error
    raise Unavailable(f"kernel module {module} is missing")


def load_module(name: str) -> bool:
    """Ask modprobe for a kernel module; whether it said yes. Bounded to five seconds; no modprobe is a no."""
    try:
        return subprocess.run(["modprobe", "-q", name], capture_output=True, timeout=5.0, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
