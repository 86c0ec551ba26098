"""Sets and maps, their elements and verdicts, as rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from functools import partial

from kuberouter.drivers.nftables.shared import FORMS, PER_FILL, Failures, Nftables, Request
from kuberouter.model.core import Batch, Outcome
from kuberouter.model.nftables import (
    TABLE_NAME,
    KeyType,
    NftElement,
    NftElementKey,
    NftSet,
    NftSetKey,
    NftVerdict,
    NftVerdictKey,
    SetForm,
)
from kuberouter.wire import nftables as wire
from kuberouter.wire.netlink import Message
from kuberouter.wire.nftmessages import delete_set, new_set

PER_MESSAGE = 500
FLAGS = {form: flags for flags, form in FORMS.items()}
SIZES = {
    KeyType.IPV4_ADDR: 4,
    KeyType.IPV6_ADDR: 16,
    KeyType.INET_PROTO: 1,
    KeyType.INET_SERVICE: 2,
    KeyType.IFNAME: 16,
}
"""Bytes of a key; as parts of one keys fill whole registers of four."""
NO_VERDICT = "?"
"""The chain of a verdict of a kind that we never write."""


class SetDriver:
    """Driver of `NftSet` rows."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables

    def read(self) -> Iterable[NftSet]:
        """All sets and maps of our tables."""
        return [row for row, _ in self._nftables.sets()]

    def owns(self, row: NftSet) -> bool:
        """Everything in our tables is ours."""
        return True

    def write(self, batch: Batch[NftSet]) -> Outcome:
        """Make and delete. One of another form has to go first, which needs it unreferenced."""
        made, _ = self.fill(batch, Batch())
        return Outcome({**made.failed, **self._delete(row.key for row in batch.remove)})

    def fill(self, batch: Batch[NftSet], content: Batch[NftElement]) -> tuple[Outcome, Outcome]:
        """Make sets and add elements, each set in one transaction with its own; where one is refused all go singly."""
        failed = self._delete(old.key for old, _ in batch.change)
        wanted = [row for row in (*batch.add, *(new for _, new in batch.change)) if row.key not in failed]
        # With every rule the kernel walks along the table's sets up to the one named there. Many policies name the same
        # blocks of addresses, so these come first.
        wanted.sort(key=_is_named_by_few)
        made = {row.key: _new(row, number) for number, row in enumerate(wanted, 1)}
        by_set = _by_set(content.add)
        requests: list[Request] = []
        for number, (key, message) in enumerate(made.items(), 1):
            own = by_set.pop(key, [])
            filling = (_elements(wire.NEWSETELEM, key, part, number=number) for part in _parts(own))
            requests.append(((key, *own), (message, *filling)))
        requests += _requests(wire.NEWSETELEM, by_set)

        def single(key: Hashable) -> Request:
            return ((key,), (made[key],)) if isinstance(key, NftSetKey) else _single(wire.NEWSETELEM, key)

        failed |= self._nftables.commit(requests, single, most=PER_FILL)
        inside: Failures = {key: text for key, text in failed.items() if isinstance(key, NftElementKey)}
        return Outcome({key: text for key, text in failed.items() if key not in inside}), Outcome(inside)

    def _delete(self, keys: Iterable[NftSetKey]) -> Failures:
        requests: list[Request] = [
            ((key,), (delete_set(key.family, TABLE_NAME[key.family], key.name),)) for key in keys
        ]
        return self._nftables.commit(requests)


def _is_named_by_few(row: NftSet) -> bool:
    return row.form is not SetForm.RANGES


def _new(row: NftSet, number: int) -> Message:
    sizes = [SIZES[kind] for kind in row.types]
    size = sizes[0] if len(sizes) == 1 else sum((each + 3) & ~3 for each in sizes)
    facts = wire.SetFacts(row.key.name, FLAGS[row.form], tuple(row.types), size)
    return new_set(row.key.family, TABLE_NAME[row.key.family], facts, number=number)


class ElementDriver:
    """Driver of `NftElement` rows."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables

    def read(self) -> Iterable[NftElement]:
        """Every element of our sets; those of maps are verdicts."""
        for row, size in self._nftables.sets():
            if row.form in (SetForm.VERDICTS, SetForm.STRANGE):
                continue
            packed = wire.dump_elements(self._nftables.link, row.key.family, TABLE_NAME[row.key.family], row.key.name)
            if row.form is SetForm.RANGES:
                entries = [entry for part in packed for entry in wire.parse_entries(part)]
                yield from (NftElement(NftElementKey(row.key, *ends)) for ends in _ranges(entries))
            else:
                for part in packed:
                    yield from (NftElement(NftElementKey(row.key, key)) for key in wire.parse_keys(part, size))

    def owns(self, row: NftElement) -> bool:
        """Everything in our tables is ours."""
        return True

    def write(self, batch: Batch[NftElement]) -> Outcome:
        """Delete and add, many elements in one message; where one is refused the others of its message go singly."""
        failed = self._send(wire.DELSETELEM, batch.remove)
        return Outcome(failed | self._send(wire.NEWSETELEM, batch.add))

    def _send(self, what: int, rows: Iterable[NftElement]) -> Failures:
        return self._nftables.commit(_requests(what, _by_set(rows)), partial(_single, what))


Keys = list[NftElementKey]


def _by_set(rows: Iterable[NftElement]) -> dict[NftSetKey, Keys]:
    found: dict[NftSetKey, Keys] = defaultdict(list)
    for row in rows:
        found[row.key.set].append(row.key)
    return found


def _parts(keys: Keys) -> Iterator[Keys]:
    return (keys[at : at + PER_MESSAGE] for at in range(0, len(keys), PER_MESSAGE))


def _requests(what: int, by_set: dict[NftSetKey, Keys]) -> list[Request]:
    return [(tuple(part), (_elements(what, name, part),)) for name, keys in by_set.items() for part in _parts(keys)]


def _single(what: int, key: Hashable) -> Request:
    assert isinstance(key, NftElementKey)
    return (key,), (_elements(what, key.set, [key]),)


def _elements(what: int, name: NftSetKey, keys: Keys, *, number: int | None = None) -> Message:
    """One message for elements of one set, which are all of one form; `number` is the set's in its transaction."""
    if keys[0].last:
        packed = b"".join([wire.pack_range(key.first, key.last) for key in keys])
    else:
        packed = wire.pack_keys([key.first for key in keys], len(keys[0].first))
    called = name.name if number is None else number
    return wire.elements(what, name.family, TABLE_NAME[name.family], called, packed)


def _ranges(entries: list[wire.Entry]) -> Iterator[tuple[bytes, bytes]]:
    """First and last addresses; the kernel keeps starts and ends, an end being the address behind the last."""
    start: bytes | None = None
    # At one address the range before ends before the next one starts.
    for entry in sorted(entries, key=lambda e: (e.key, not e.end)):
        if not entry.end:
            start = entry.key
        elif start is not None:
            yield start, (int.from_bytes(entry.key, "big") - 1).to_bytes(len(entry.key), "big")
            start = None
    if start is not None:
        yield start, b"\xff" * len(start)


class VerdictDriver:
    """Driver of `NftVerdict` rows: the elements of maps."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables

    def read(self) -> Iterable[NftVerdict]:
        """Every element of our maps."""
        for row, _ in self._nftables.sets():
            if row.form is not SetForm.VERDICTS:
                continue
            family = row.key.family
            for part in wire.dump_elements(self._nftables.link, family, TABLE_NAME[family], row.key.name):
                for key, _, chain in wire.parse_entries(part):
                    yield NftVerdict(NftVerdictKey(row.key, key), NO_VERDICT if chain is None else chain)

    def owns(self, row: NftVerdict) -> bool:
        """Everything in our tables is ours."""
        return True

    def write(self, batch: Batch[NftVerdict]) -> Outcome:
        """Add, replace and delete in one transaction: an address has its old verdict or its new one at any moment."""
        requests: list[Request] = [((row.key,), (_delete(row.key),)) for row in batch.remove]
        requests += [((new.key,), (_delete(new.key), _add(new))) for _, new in batch.change]
        requests += [((row.key,), (_add(row),)) for row in batch.add]
        return Outcome(self._nftables.commit(requests))


def _verdict(what: int, key: NftVerdictKey, packed: bytes) -> Message:
    return wire.elements(what, key.map.family, TABLE_NAME[key.map.family], key.map.name, packed)


def _delete(key: NftVerdictKey) -> Message:
    return _verdict(wire.DELSETELEM, key, wire.pack_keys((key.packed,), len(key.packed)))


def _add(row: NftVerdict) -> Message:
    return _verdict(wire.NEWSETELEM, row.key, wire.pack_verdict(row.key.packed, row.chain))
