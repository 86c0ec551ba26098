"""Tables of iptables-legacy as the kernel hands them out: which chains there are, and the comments of ours.

The tools show nothing of a table in which there is a match or target that they have no extension for. They put such
rules back as the bytes that they are, so writing goes on; it must only be known what is there. The layout is that of
linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h and linux/netfilter/x_tables.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from kuberouter.model.core import Family, Unavailable
from kuberouter.wire.text.iptables import SavedTable, commented
from kuberouter.wire.text.tags import MARKER

PROC = Path("/proc/thread-self/net")
"""Names of the tables that exist in this thread's network namespace: `ip_tables_names`, `ip6_tables_names`."""
HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""Builtin chains by their number."""
GET_INFO, GET_ENTRIES = 64, 65
INFO = Struct("@32sI5I5III")
"""struct ipt_getinfo: name, valid hooks, their first entries, their policies, count of entries, bytes of entries."""
ENTRIES = Struct("@32sI0Q")
"""struct ipt_get_entries: name and bytes; the entries follow."""
ENTRY = {Family.IPV4: Struct("@84sIHHIQQ"), Family.IPV6: Struct("@136sIHHIQQ")}
"""struct ipt_entry: what addresses match, cache, start of the target, start of the next entry, and counters."""
PART = Struct("@H29sB")
"""struct xt_entry_match and xt_entry_target: size of the whole, name, revision; the options follow."""
TRIES = 10
"""Somebody may change a table between the question how long it is and the one what is in it."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Rule(NamedTuple):
    """Where an entry begins, our comment in it, and the chain that it is the head of, if it is one."""

    offset: int
    comment: str
    head: str


def table_names(family: Family) -> tuple[str, ...]:
    """The tables that exist; to ask makes none."""
    try:
        return tuple((PROC / ("ip_tables_names" if family is Family.IPV4 else "ip6_tables_names")).read_text().split())
    except OSError:
        return ()


def marks(family: Family, tables: Collection[str]) -> dict[str, SavedTable]:
    """These tables, as far as they exist; rules and chains of ours have their tags, and no rule has words.

    Raises Unavailable.
    """
    try:
        existing = [name for name in table_names(family) if name in tables]
        return {name: _table(family, *_fetch(family, name)) for name in existing}
    except OSError as error:
        raise Unavailable(f"the kernel does not show its tables of iptables-legacy: {error}") from error


def _fetch(family: Family, name: str) -> tuple[dict[int, str], bytes]:
    """Where the builtin chains of a table begin, and its entries. Raises OSError."""
    inet, level = socket.AF_INET, socket.IPPROTO_IP
    if family is Family.IPV6:
        inet, level = socket.AF_INET6, socket.IPPROTO_IPV6
    with socket.socket(inet, socket.SOCK_RAW, socket.IPPROTO_RAW) as link:
        for _ in range(TRIES):
            info = _ask(link, level, GET_INFO, name.encode().ljust(INFO.size, b"\0"))
            _, valid, *numbers, _, size = INFO.unpack(info)
            question = ENTRIES.pack(name.encode(), size)
            try:
                answer = _ask(link, level, GET_ENTRIES, question.ljust(len(question) + size, b"\0"))
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                continue
            heads = {numbers[hook]: chain for hook, chain in enumerate(HOOKS) if valid & 1 << hook}
            return heads, answer[len(question) :]
    raise BlockingIOError(errno.EAGAIN, f"table {name} changes all the time")


def _ask(link: socket.socket, level: int, option: int, question: bytes) -> bytes:
    """getsockopt(2) with a buffer that the kernel reads first, which Python's own does not do."""
    buffer = ctypes.create_string_buffer(question, len(question))
    length = ctypes.c_uint32(len(question))
    if _LIBC.getsockopt(link.fileno(), level, option, buffer, ctypes.byref(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw[: length.value]


def _table(family: Family, heads: dict[int, str], blob: bytes) -> SavedTable:
    rules: dict[str, list[str]] = {}
    chain: list[str] = []
    for rule in _rules(ENTRY[family], blob):
        if name := rule.head or heads.get(rule.offset, ""):
            chain = rules[name] = []
        if not rule.head:
            chain.append(rule.comment)
    # The last rule of a chain is its policy, or the return from it. What follows the last chain is the table's end.
    found = [(name, comment) for name, comments in rules.items() for comment in comments[:-1]]
    return commented(found, list(heads.values()), [name for name in rules if name != "ERROR"])


def _rules(entry: Struct, blob: bytes) -> Iterator[_Rule]:
    offset = 0
    while offset < len(blob):
        _, _, target, following, _, _, _ = entry.unpack_from(blob, offset)
        comment = ""
        at, end = offset + entry.size, offset + target
        while at < end:
            size, name = _part(blob, at)
            if name == "comment":
                comment = comment or _ours(_text(blob[at + PART.size : at + size]))
            at += size
        size, name = _part(blob, end)
        yield _Rule(offset, comment, _text(blob[end + PART.size : end + size]) if name == "ERROR" else "")
        offset += following


def _part(blob: bytes, at: int) -> tuple[int, str]:
    size, name, _ = PART.unpack_from(blob, at)
    return size, _text(name)


def _ours(comment: str) -> str:
    return comment if comment.startswith(MARKER) else ""


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
