"""IP sets and their members in the kernel, through batched netlink. Two tables: sets before what is in them."""

from __future__ import annotations

import errno
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache

from kuberouter.model.core import Batch, Family, Outcome, Unavailable, family_of
from kuberouter.model.meter import UNMETERED, Meter
from kuberouter.model.netfilter import IpSet, IpSetKey, Member, MemberKey, SetType, SourcedKey
from kuberouter.wire import ipset
from kuberouter.wire.netlink import Message, NetlinkSocket, error_text, load_module

TYPES = {kind.value: kind for kind in SetType}
PER_MESSAGE = 500
HASHSIZE = 1024
"""Buckets of a new set. A set grows by itself, but each doubling waits until the kernel has forgotten the old one."""
MANY = 2 * HASHSIZE
"""Entries for an empty set from which on it is made anew in the right size first."""
LETTING_GO = (0.005, 0.01, 0.02, 0.04, 0.08)
"""Seconds between tries to destroy a set that is in use: iptables-nft lets a set go only some time after the rule."""
NAME_SIZE = 31
"""Longest name of a set (IPSET_MAXNAMELEN in linux/netfilter/ipset/ip_set.h, without the NUL)."""
HALVES = {4: (b"\0" * 4, b"\x80" + b"\0" * 3), 16: (b"\0" * 16, b"\x80" + b"\0" * 15)}
"""A hash:net set refuses prefix length 0, so it holds both halves instead."""

Owns = Callable[[str], bool]


def _text(code: int) -> str:
    return ipset.ERRORS.get(code) or error_text(code)


class _Sets:
    """What the two drivers share."""

    def __init__(self, owns: Owns) -> None:
        # Asked for every entry, and names are few beside those.
        self._owns = lru_cache(maxsize=65536)(owns)
        self._wire = NetlinkSocket(ipset.NETLINK_NETFILTER)

    def _dump(self, *, entries: bool) -> list[ipset.SetPart]:
        kind, body = ipset.message_type(ipset.IPSET_CMD_LIST), ipset.list_request(entries=entries)
        try:
            answers = self._wire.dump(kind, body)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            if error.errno != errno.EINVAL or not load_module("ip_set"):
                raise Unavailable("kernel module ip_set is missing") from error
            answers = self._wire.dump(kind, body)
        return [part for part in map(ipset.parse_part, answers) if self._owns(part.name)]


class SetDriver(_Sets):
    """Sets, recognised by name: fixed names and prefixes are given as a predicate."""

    def owns(self, row: IpSet) -> bool:
        """By name; content-addressed names are ours by prefix."""
        return self._owns(row.key.name)

    def read(self) -> Iterable[IpSet]:
        """Our sets of the types that we use; one of a strange type is reported as hash:ip and so replaced."""
        rows: dict[str, IpSet] = {}
        for part in self._dump(entries=False):
            if part.family in (Family.IPV4, Family.IPV6):
                kind = TYPES.get(part.kind, SetType.HASH_IP)
                rows.setdefault(part.name, IpSet(IpSetKey(part.name), kind, Family(part.family), part.marks))
        return rows.values()

    def write(self, batch: Batch[IpSet]) -> Outcome:
        """Create and destroy. A set that exists with another type is destroyed first, which needs it unreferenced."""
        failed: dict[Hashable, str] = {}
        self._send(ipset.IPSET_CMD_DESTROY, [(o.key, ipset.set_request(o.key.name)) for o, _ in batch.change], failed)
        wanted = [*batch.add, *(new for _, new in batch.change if new.key not in failed)]
        requests: list[tuple[Hashable, bytes]] = [
            (r.key, ipset.create_request(r.key.name, r.type.value, int(r.family), HASHSIZE, marks=r.marks))
            for r in wanted
        ]
        self._send(ipset.IPSET_CMD_CREATE, requests, failed)
        self._send(ipset.IPSET_CMD_DESTROY, [(r.key, ipset.set_request(r.key.name)) for r in batch.remove], failed)
        return Outcome(failed)

    def _send(self, command: int, requests: list[tuple[Hashable, bytes]], failed: dict[Hashable, str]) -> None:
        messages: list[Message] = [(ipset.message_type(command), 0, body) for _, body in requests]
        codes = self._wire.transact(messages)
        for pause in LETTING_GO:
            busy = [i for i, code in enumerate(codes) if code == ipset.IPSET_ERR_BUSY]
            if not busy:
                break
            time.sleep(pause)
            for i, code in zip(busy, self._wire.transact([messages[i] for i in busy]), strict=True):
                codes[i] = code
        for (key, _), code in zip(requests, codes, strict=True):
            if code and not (command == ipset.IPSET_CMD_DESTROY and code == errno.ENOENT):
                failed[key] = _text(code)


class MemberDriver(_Sets):
    """Entries of our sets."""

    def __init__(self, owns: Owns, meter: Meter = UNMETERED) -> None:
        super().__init__(owns)
        self._meter = meter

    def owns(self, row: Member) -> bool:
        """Every entry of a set of ours."""
        return self._owns(row.key.set)

    def read(self) -> Iterable[Member]:
        """Every entry of our sets; the two halves of an address space come back as one entry of length 0."""
        nets: set[str] = set()
        marked: set[str] = set()
        for part in self._dump(entries=True):
            if part.kind.startswith("hash:net"):
                nets.add(part.name)
            if part.kind and part.marks:
                marked.add(part.name)
            if part.name in marked:
                yield from (Member(_member_key(part.name, entry), mark) for entry, mark in ipset.parse_marks(part))
                continue
            rows = [Member(_member_key(part.name, entry)) for entry in ipset.parse_entries(part)]
            if part.name in nets:
                halves = {row.key for row in rows if row.key.length == 1}
                rows = [row for row in rows if row.key.length != 1]
                rows += map(Member, _join(halves))
            yield from rows

    def write(self, batch: Batch[Member]) -> Outcome:
        """Add and remove, many entries in one message; where one is refused the others of its message go one by one.

        An entry of which the mark changes is added again.
        """
        failed: dict[Hashable, str] = {}
        self._send(ipset.IPSET_CMD_DEL, batch.remove, failed)
        self._send(ipset.IPSET_CMD_ADD, (*batch.add, *(new for _, new in batch.change)), failed)
        return Outcome(failed)

    def _send(self, command: int, rows: Iterable[Member], failed: dict[Hashable, str]) -> None:
        began = time.perf_counter()
        by_set: defaultdict[str, list[MemberKey]] = defaultdict(list)
        marks: dict[MemberKey, int] = {}
        for row in rows:
            key = row.key
            by_set[key.set].append(key)
            if row.mark:
                marks[key] = row.mark
        kind = ipset.message_type(command)
        chunks: list[tuple[str, list[MemberKey]]] = []
        for name, keys in by_set.items():
            if command == ipset.IPSET_CMD_ADD and len(keys) >= MANY:
                self._make_room(name, len(keys))
            chunks += [(name, keys[at : at + PER_MESSAGE]) for at in range(0, len(keys), PER_MESSAGE)]
        messages = [(kind, 0, _request(name, keys, marks)) for name, keys in chunks]
        for (name, keys), code in zip(chunks, self._wire.transact(messages), strict=True):
            if code:
                self._singly(kind, name, keys, marks, failed, ignore_missing=command == ipset.IPSET_CMD_DEL)
        spent = time.perf_counter() - began
        # One batch carries both families, so it counts for each that is in it.
        for family in {family_of(keys[0].address) for keys in by_set.values()}:
            self._meter.observe(f"ipset {family.name} restore", spent)

    def _make_room(self, name: str, count: int) -> None:
        """Put a set with buckets for so many entries in the place of an empty one; rules that refer to it stay.

        Nothing is lost where that fails: the set then grows by itself. What a crash leaves behind bears a name of ours.
        """
        kind, body = ipset.message_type(ipset.IPSET_CMD_LIST), ipset.list_request(entries=False, name=name)
        try:
            answers = self._wire.dump(kind, body)
        except OSError:
            return
        if not answers:
            return
        part = ipset.parse_part(answers[0])
        hashsize, elements = ipset.parse_size(part)
        size = 1 << (count - 1).bit_length()
        if elements or hashsize * 2 > size or part.kind not in TYPES:
            return
        draft = name[: NAME_SIZE - 1] + "~"
        steps = (
            (ipset.IPSET_CMD_DESTROY, ipset.set_request(draft)),
            (ipset.IPSET_CMD_CREATE, ipset.create_request(draft, part.kind, part.family, size, marks=part.marks)),
            (ipset.IPSET_CMD_SWAP, ipset.swap_request(draft, name)),
            (ipset.IPSET_CMD_DESTROY, ipset.set_request(draft)),
        )
        self._wire.transact([(ipset.message_type(command), 0, body) for command, body in steps])

    def _singly(
        self,
        kind: int,
        name: str,
        keys: list[MemberKey],
        marks: dict[MemberKey, int],
        failed: dict[Hashable, str],
        *,
        ignore_missing: bool,
    ) -> None:
        pairs = [(key, entry) for key in keys for entry in _entries(key)]
        requests = [ipset.entry_request(name, entry, marks.get(key, 0)) for key, entry in pairs]
        codes = self._wire.transact([(kind, 0, body) for body in requests])
        for (key, _), code in zip(pairs, codes, strict=True):
            if code and not (ignore_missing and code == errno.ENOENT):
                failed[key] = f"set {name} does not exist" if code == errno.ENOENT else _text(code)


def _member_key(name: str, entry: ipset.Entry | ipset.SourcedEntry) -> MemberKey:
    return MemberKey(name, *entry) if len(entry) == 4 else SourcedKey(name, *entry)


def _request(name: str, keys: list[MemberKey], marks: dict[MemberKey, int]) -> bytes:
    if marks and keys[0] in marks:
        return ipset.marked_request(name, ((entry, marks.get(key, 0)) for key in keys for entry in _plain(key)))
    if isinstance(keys[0], SourcedKey):
        return ipset.sourced_request(name, (_sourced(key) for key in keys if isinstance(key, SourcedKey)))
    size = len(keys[0].address)
    bits = size * 8
    # A set is of one family, so nearly always its entries are all alike: whole addresses.
    addresses = [key.address for key in keys if key.length == bits and not key.protocol]
    if len(addresses) == len(keys):
        return ipset.addresses_request(name, addresses)
    if all(key.length for key in keys):
        return ipset.entries_request(name, [(key.address, key.length, key.protocol, key.port) for key in keys])
    return ipset.entries_request(name, [entry for key in keys for entry in _plain(key)])


def _sourced(key: SourcedKey) -> ipset.SourcedEntry:
    return key.address, key.length, key.protocol, key.port, key.network, key.network_length


def _entries(key: MemberKey) -> tuple[ipset.Entry | ipset.SourcedEntry, ...]:
    return (_sourced(key),) if isinstance(key, SourcedKey) else _plain(key)


def _plain(key: MemberKey) -> tuple[ipset.Entry, ...]:
    if key.length == 0:
        return tuple((half, 1, key.protocol, key.port) for half in HALVES[len(key.address)])
    return ((key.address, key.length, key.protocol, key.port),)


def _join(halves: set[MemberKey]) -> Iterable[MemberKey]:
    for key in halves:
        lower, upper = HALVES[len(key.address)]
        twin = MemberKey(key.set, upper if key.address == lower else lower, 1, key.protocol, key.port)
        if twin not in halves:
            yield key
        elif key.address == lower:
            yield MemberKey(key.set, lower, 0, key.protocol, key.port)
