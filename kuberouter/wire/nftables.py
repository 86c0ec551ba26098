"""nf_tables over netlink: transactions, set elements, dumps, notices. linux/netfilter/nf_tables.h.

What transactions are made of, beside elements, is in `wire/nftmessages`.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from kuberouter.model.core import Unavailable
from kuberouter.wire.netlink import (
    ATTRIBUTE,
    BUFFER,
    ERROR,
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    SO_SNDBUFFORCE,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    each_attribute,
    load_module,
    nested,
    text,
)

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNLGRP_NFTABLES = 7
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
TABLE_NAME, TABLE_FLAGS = 1, 2
TABLE_F_DORMANT = 1
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 1, 3, 4, 5, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_USERDATA = 1, 2, 4, 7
UDATA_RULE_COMMENT = 0
SET_TABLE, SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LEN, SET_DATA_TYPE, SET_DATA_LEN = 1, 2, 3, 4, 5, 6, 7
SET_ID, SET_USERDATA = 10, 13
SET_ANONYMOUS, SET_INTERVAL, SET_MAP, SET_TIMEOUT, SET_CONCAT = 0x1, 0x4, 0x8, 0x10, 0x80
LIST_TABLE, LIST_SET, LIST_ELEMENTS, LIST_SET_ID = 1, 2, 3, 4
LIST_ELEM = 1
ELEM_KEY, ELEM_DATA, ELEM_FLAGS = 1, 2, 3
ELEM_F_INTERVAL_END = 1
DATA_VALUE, DATA_VERDICT = 1, 2
VERDICT_CODE, VERDICT_CHAIN = 1, 2
NF_ACCEPT, NFT_GOTO = 1, -4

GENMSG = Struct("!BBH")
BE32 = Struct("!I")
SIGNED = Struct("!i")
_COUNTED = re.compile(rb"counter\0.{28}", re.DOTALL)
"""The data of a counter behind its name: a nest of two numbers of eight bytes."""


class NftSocket(NetlinkSocket):
    """A socket for transactions."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)
        self._room = BUFFER

    def commit(self, messages: Sequence[Message]) -> list[int]:
        """As `apply`; when the kernel refuses the whole, that error for each message."""
        whole, results = self.apply(messages)
        return [whole] * len(messages) if whole else results

    def apply(self, messages: Sequence[Message]) -> tuple[int, list[int]]:
        """Apply messages as one transaction: all, or none of them as soon as one result is not 0.

        Returns an errno for the whole, which is 0 unless the kernel refuses it without saying for what, and one per
        message.
        """
        if not messages:
            return 0, []
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(messages) + 1
        mark, pack = GENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES), HEADER.pack
        # Headers and what follows them, one behind the other.
        parts = [b""] * (2 * len(messages))
        parts[::2] = [
            pack(16 + len(body), kind, flags | NLM_F_REQUEST, sequence, 0)
            for sequence, (kind, flags, body) in enumerate(messages, first + 1)
        ]
        parts[1::2] = [body for _, _, body in messages]
        # Only the last message asks for an answer; the others answer when they fail.
        kind, flags, body = messages[-1]
        parts[-2] = pack(16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, last, 0)
        begin = pack(20, NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, first, 0)
        end = pack(20, NFNL_MSG_BATCH_END, NLM_F_REQUEST, last, 0)
        data = b"".join((begin, mark, *parts, end, mark))
        if len(data) > self._room:
            # The kernel takes no transaction that is longer than the buffer.
            self._room = len(data) + BUFFER
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, self._room)
        self._socket.send(data)
        results = [0] * len(messages)
        whole = 0
        done = False
        while not done:
            data = self._receive()
            offset = 0
            while offset + 16 <= len(data):
                length, kind, _, sequence, _ = HEADER.unpack_from(data, offset)
                if kind == NLMSG_ERROR and first <= sequence <= last:
                    code = -ERROR.unpack_from(data, offset + 16)[0]
                    if sequence == first:
                        # The kernel could not commit what every single message was fine for.
                        whole = whole or code
                    else:
                        results[sequence - first - 1] = code
                        done = done or sequence == last
                offset += (max(length, 16) + 3) & ~3
        return whole, results

    def list(self, what: int, body: bytes) -> list[bytes]:
        """Every answer to a dump; nothing when the table asked for does not exist."""
        kind = NFNL_SUBSYS_NFTABLES << 8 | what
        try:
            return self.dump(kind, body)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or not load_module("nf_tables"):
                raise Unavailable("kernel module nf_tables is missing") from error
        try:
            return self.dump(kind, body)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise Unavailable(f"nf_tables cannot be read: {error.strerror}") from error


def _body(family: int, *parts: bytes) -> bytes:
    return b"".join((GENMSG.pack(family, 0, 0), *parts))


def string(kind: int, value: str) -> bytes:
    """An attribute with a text."""
    return attribute(kind, value.encode() + b"\0")


@lru_cache(maxsize=64)
def place(family: int, kind: int, table: str) -> bytes:
    """The beginning of every message about something in a table, whose name is an attribute of this kind."""
    return GENMSG.pack(family, 0, 0) + string(kind, table)


# --- elements --------------------------------------------------------------------------------------------------------


def elements(what: int, family: int, table: str, name: str | int, packed: bytes) -> Message:
    """Add (NEWSETELEM) or delete (DELSETELEM) elements of a set, whether they exist or not; at most 64 KB of them.

    A set that the same transaction makes can be named by its number there, and is then found without a search: any
    other the kernel finds by walking along all sets of the table.
    """
    where = string(LIST_SET, name) if isinstance(name, str) else attribute(LIST_SET_ID, BE32.pack(name))
    flags = NLM_F_CREATE if what == NEWSETELEM else 0
    body = (place(family, LIST_TABLE, table), where, nested(LIST_ELEMENTS, packed))
    return NFNL_SUBSYS_NFTABLES << 8 | what, flags, b"".join(body)


def pack_keys(keys: Sequence[bytes], size: int) -> bytes:
    """Elements, at least one, with keys of `size` bytes, a multiple of four."""
    head = ATTRIBUTE.pack(12 + size, LIST_ELEM | 0x8000)
    head += ATTRIBUTE.pack(8 + size, ELEM_KEY | 0x8000) + ATTRIBUTE.pack(4 + size, DATA_VALUE)
    return head + head.join(keys)


def pack_range(first: bytes, last: bytes) -> bytes:
    """A range of an interval set: its first address, and as an end the one behind its last, if there is any."""
    start = nested(LIST_ELEM, nested(ELEM_KEY, attribute(DATA_VALUE, first)))
    behind = int.from_bytes(last, "big") + 1
    if behind >> (8 * len(last)):
        return start
    flags = attribute(ELEM_FLAGS, BE32.pack(ELEM_F_INTERVAL_END))
    return start + nested(LIST_ELEM, nested(ELEM_KEY, attribute(DATA_VALUE, behind.to_bytes(len(last), "big"))), flags)


def pack_verdict(key: bytes, chain: str) -> bytes:
    """An element of a verdict map: go to a chain, or accept without one."""
    code = attribute(VERDICT_CODE, SIGNED.pack(NFT_GOTO if chain else NF_ACCEPT))
    verdict = nested(DATA_VERDICT, code, *([string(VERDICT_CHAIN, chain)] if chain else []))
    return nested(LIST_ELEM, nested(ELEM_KEY, attribute(DATA_VALUE, key)), nested(ELEM_DATA, verdict))


class Entry(NamedTuple):
    """An element as dumped; `chain` is that of a goto, None for any other verdict or none, empty for accept."""

    key: bytes
    end: bool
    chain: str | None


def dump_elements(link: NftSocket, family: int, table: str, name: str) -> Iterator[bytes]:
    """The lists of elements of a set, one per answer, for `parse_keys` or `parse_entries`."""
    for body in link.list(GETSETELEM, _body(family, string(LIST_TABLE, table), string(LIST_SET, name))):
        yield attributes(body, GENMSG.size).get(LIST_ELEMENTS, b"")


def parse_entries(packed: bytes) -> Iterator[Entry]:
    """Elements of any set."""
    for kind, body in each_attribute(packed):
        if kind != LIST_ELEM:
            continue
        found = attributes(body)
        key = attributes(found.get(ELEM_KEY, b"")).get(DATA_VALUE, b"")
        flags = BE32.unpack(found[ELEM_FLAGS])[0] if ELEM_FLAGS in found else 0
        chain: str | None = None
        if ELEM_DATA in found:
            verdict = attributes(attributes(found[ELEM_DATA]).get(DATA_VERDICT, b""))
            code = SIGNED.unpack(verdict[VERDICT_CODE])[0] if VERDICT_CODE in verdict else 0
            chain = text(verdict.get(VERDICT_CHAIN, b"")) if code in (NFT_GOTO, NF_ACCEPT) else None
        yield Entry(key, bool(flags & ELEM_F_INTERVAL_END), chain)


def parse_keys(packed: bytes, size: int) -> Iterator[bytes]:
    """Keys of the elements of a plain set, quickly where all have the form that we write."""
    stride = 12 + size
    if not packed:
        return
    if len(packed) % stride == 0:
        head = packed[:12]
        found = [(first, key) for first, key in Struct(f"12s{size}s").iter_unpack(packed)]
        if all(first == head for first, _ in found) and ATTRIBUTE.unpack_from(packed)[0] == stride:
            for _, key in found:
                yield key
            return
    for entry in parse_entries(packed):
        yield entry.key


# --- dumps -----------------------------------------------------------------------------------------------------------


class TableFacts(NamedTuple):
    """A table as dumped."""

    name: str
    dormant: bool


class ChainFacts(NamedTuple):
    """A chain as dumped; hook number and priority are None in chains that only rules jump to."""

    name: str
    hook: int | None
    priority: int | None
    accepts: bool


class RuleFacts(NamedTuple):
    """A rule as dumped: its chain, its expressions without what they have counted, its comment if it has one."""

    chain: str
    expressions: bytes
    comment: str


class SetFacts(NamedTuple):
    """A set or map as dumped: flags, the types of its keys by nft's numbers, the length of a key in bytes."""

    name: str
    flags: int
    types: tuple[int, ...]
    size: int


def tables(link: NftSocket, family: int) -> Iterator[TableFacts]:
    """All tables of a family."""
    for body in link.list(GETTABLE, _body(family)):
        found = attributes(body, GENMSG.size)
        flags = BE32.unpack(found[TABLE_FLAGS])[0] if TABLE_FLAGS in found else 0
        yield TableFacts(text(found[TABLE_NAME]), bool(flags & TABLE_F_DORMANT))


def chains(link: NftSocket, family: int, table: str) -> Iterator[ChainFacts]:
    """The chains of a table."""
    for body in link.list(GETCHAIN, _body(family)):
        found = attributes(body, GENMSG.size)
        if text(found[CHAIN_TABLE]) != table:
            continue
        number = priority = None
        if CHAIN_HOOK in found:
            hook = attributes(found[CHAIN_HOOK])
            number, priority = BE32.unpack(hook[HOOK_NUMBER])[0], SIGNED.unpack(hook[HOOK_PRIORITY])[0]
        accepts = BE32.unpack(found[CHAIN_POLICY])[0] == NF_ACCEPT if CHAIN_POLICY in found else True
        accepts = accepts and text(found.get(CHAIN_TYPE, b"filter\0")) == "filter"
        yield ChainFacts(text(found[CHAIN_NAME]), number, priority, accepts)


def rules(link: NftSocket, family: int, table: str) -> Iterator[RuleFacts]:
    """The rules of a table, in order within a chain."""
    for body in link.list(GETRULE, _body(family, string(RULE_TABLE, table))):
        found = attributes(body, GENMSG.size)
        if text(found[RULE_TABLE]) == table:
            comment = _comment(found.get(RULE_USERDATA, b""))
            expressions = _COUNTED.sub(b"", found.get(RULE_EXPRESSIONS, b""))
            yield RuleFacts(text(found[RULE_CHAIN]), expressions, comment)


def rule_marks(link: NftSocket, family: int, table: str, mark: bytes) -> Iterator[tuple[str, str]]:
    """Chain of every rule of a table, in order within a chain, with the text from `mark` on that is kept in it.

    Tools of iptables keep a comment in user data or in the options of a match, as their version has it; the text ends
    with a zero either way.
    """
    for body in link.list(GETRULE, _body(family, string(RULE_TABLE, table))):
        found = attributes(body, GENMSG.size)
        if text(found[RULE_TABLE]) == table:
            at = body.find(mark)
            yield text(found[RULE_CHAIN]), text(body[at : body.index(b"\0", at)]) if at >= 0 else ""


def _comment(userdata: bytes) -> str:
    """The comment in libnftnl's user data: a list of type, length and value in bytes."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == UDATA_RULE_COMMENT:
            return text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


def sets(link: NftSocket, family: int, table: str) -> Iterator[SetFacts]:
    """The sets and maps of a table that have a name of their own."""
    for body in link.list(GETSET, _body(family, string(SET_TABLE, table))):
        found = attributes(body, GENMSG.size)
        flags = BE32.unpack(found[SET_FLAGS])[0] if SET_FLAGS in found else 0
        if text(found[SET_TABLE]) == table and not flags & SET_ANONYMOUS:
            number = BE32.unpack(found[SET_KEY_TYPE])[0] if SET_KEY_TYPE in found else 0
            yield SetFacts(text(found[SET_NAME]), flags, _types(number), BE32.unpack(found[SET_KEY_LEN])[0])


def _types(number: int) -> tuple[int, ...]:
    """nft packs the types of a concatenation into one number, six bits each, the first one on top."""
    return (*_types(number >> 6), number & 63) if number else ()


# --- notices ---------------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What a notice tells: the message (NEWRULE, DELSET, ...), where, and in which chain if it is about one."""

    what: int
    family: int
    table: str
    chain: str


_CHAIN_OF = {NEWCHAIN: CHAIN_NAME, DELCHAIN: CHAIN_NAME, NEWRULE: RULE_CHAIN, DELRULE: RULE_CHAIN}


def parse_change(kind: int, body: bytes) -> Change | None:
    """A notice of the group NFNLGRP_NFTABLES; None for those that tell of no table, such as a new generation."""
    what = kind & 0xFF
    if kind >> 8 != NFNL_SUBSYS_NFTABLES or what > DELSETELEM:
        return None
    found = attributes(body, GENMSG.size)
    # Everything has the name of its table in the first attribute.
    table = text(found.get(TABLE_NAME, b""))
    chain = text(found.get(_CHAIN_OF[what], b"")) if what in _CHAIN_OF else ""
    return Change(what, body[0], table, chain) if table else None
