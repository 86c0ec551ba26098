"""Our nftables tables: sets, elements, chains, verdicts. Everything in a table of ours is ours.

Chains and sets are written as scripts, elements and deletions as netlink messages; every batch is one transaction (of
very many elements, one per two megabytes), so a packet meets either all of it or nothing. A row that the kernel refuses
is left out, or stood in for, and the others are tried again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from kuberouter.model.core import Batch, Outcome, Unavailable
from kuberouter.model.netfilter import chain_digest
from kuberouter.model.nftables import (
    TABLE_NAME,
    BaseHook,
    FormerTable,
    KeyType,
    NftChain,
    NftChainKey,
    NftElement,
    NftElementKey,
    NftFamily,
    NftSet,
    NftSetKey,
    NftTable,
    NftTableKey,
    NftVerdict,
    NftVerdictKey,
    SetForm,
)
from kuberouter.wire import nftables as wire
from kuberouter.wire.netlink import Message, error_text
from kuberouter.wire.nft import Nft
from kuberouter.wire.text.nft import Script, comment_tag, complaint, jumps

ATTEMPTS = 64
"""Most transactions for one batch; each failed one leaves out or replaces at least one row."""
PER_MESSAGE = 500
PER_COMMIT = 2 << 20
"""Bytes of one netlink transaction, well below what the socket's buffer holds."""
HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output"}
"""enum nf_inet_hooks."""
REASONS = {
    errno.ENOENT: "what it refers to does not exist",
    errno.EBUSY: "something still refers to it",
    errno.EEXIST: "it overlaps with what is there",
}
KEY_TYPES = {kind.value: kind for kind in KeyType}
FORMS = {0: SetForm.KEYS, wire.SET_INTERVAL: SetForm.RANGES, wire.SET_MAP: SetForm.VERDICTS}
NO_VERDICT = "?"
"""The chain of a verdict of a kind that we never write."""

Failures = dict[Hashable, str]
Request = tuple[tuple[Hashable, ...], tuple[Message, ...]]
"""Keys of rows and the messages that write them together; a missing thing that should be deleted is no failure."""


class Nftables:
    """What the drivers share: the socket and the way for scripts."""

    def __init__(self, *, library: bool = True) -> None:
        self.link = wire.NftSocket()
        self.nft = Nft(library=library)

    def sets(self) -> Iterator[tuple[NftSet, int]]:
        """Our sets and maps with the length of their keys."""
        for family in NftFamily:
            for facts in wire.sets(self.link, family, TABLE_NAME[family]):
                types = tuple(KEY_TYPES[number] for number in facts.types if number in KEY_TYPES)
                # Newer tools mark concatenations by a flag of their own.
                form = FORMS.get(facts.flags & ~wire.SET_CONCAT, SetForm.STRANGE)
                if len(types) != len(facts.types):
                    form = SetForm.STRANGE
                yield NftSet(NftSetKey(family, facts.name), types, form), facts.size

    def commit(self, requests: Sequence[Request], split: Callable[[Hashable], Request] | None = None) -> Failures:
        """Write requests in few transactions; of those with several keys that fail `split` makes single ones."""
        failed: Failures = {}
        part: list[Request] = []
        size = 0
        for request in requests:
            part.append(request)
            size += sum(len(body) + 16 for _, _, body in request[1])
            if size > PER_COMMIT:
                failed |= self._commit(part, split)
                part, size = [], 0
        return failed | self._commit(part, split)

    def _commit(self, requests: list[Request], split: Callable[[Hashable], Request] | None) -> Failures:
        failed: Failures = {}
        for _ in range(ATTEMPTS):
            codes = iter(self.link.commit([message for _, messages in requests for message in messages]))
            again: list[Request] = []
            refused = False
            for keys, messages in requests:
                answers = [next(codes) for _ in messages]
                if any(answers):
                    refused = True
                gone = [_deletes(m) and code == errno.ENOENT for m, code in zip(messages, answers, strict=True)]
                code = next((c for c, missing in zip(answers, gone, strict=True) if c and not missing), 0)
                if len(keys) > 1 and any(answers) and split is not None:
                    again += map(split, keys)
                elif code:
                    failed.update((key, REASONS.get(code) or error_text(code)) for key in keys)
                elif left := tuple(m for m, missing in zip(messages, gone, strict=True) if not missing):
                    again.append((keys, left))
            if not refused or not again:
                return failed
            requests = again
        return failed | {key: "not tried: too many others were refused" for keys, _ in requests for key in keys}


def _deletes(message: Message) -> bool:
    return message[0] & 0xFF in (wire.DELTABLE, wire.DELCHAIN, wire.DELRULE, wire.DELSET, wire.DELSETELEM)


class TableDriver:
    """Driver of `NftTable` rows."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables

    def read(self) -> Iterable[NftTable]:
        """Our tables."""
        for family in NftFamily:
            for facts in wire.tables(self._nftables.link, family):
                if facts.name == TABLE_NAME[family]:
                    yield NftTable(NftTableKey(family), facts.dormant)

    def owns(self, row: NftTable) -> bool:
        """By name; `read` yields no others."""
        return True

    def write(self, batch: Batch[NftTable]) -> Outcome:
        """Make or wake tables; delete others with everything in them."""
        wanted = [row.key.family for row in (*batch.add, *(new for _, new in batch.change))]
        requests: list[Request] = [((NftTableKey(f),), (wire.new_table(f, TABLE_NAME[f]),)) for f in wanted]
        requests += [((row.key,), (wire.delete_table(f := row.key.family, TABLE_NAME[f]),)) for row in batch.remove]
        return Outcome(self._nftables.commit(requests))


class FormerTableDriver:
    """Driver of `FormerTable` rows: what is left of nftables when it is not in use."""

    def __init__(self, nftables: Nftables) -> None:
        self._tables = TableDriver(nftables)

    def read(self) -> Iterable[FormerTable]:
        """Our tables; none where the kernel has no nf_tables."""
        try:
            return [FormerTable(row.key) for row in self._tables.read()]
        except Unavailable:
            return []

    def owns(self, row: FormerTable) -> bool:
        """By name, as for `NftTable`."""
        return True

    def write(self, batch: Batch[FormerTable]) -> Outcome:
        """Delete tables; there are only removals."""
        return self._tables.write(Batch(remove=tuple(NftTable(row.key) for row in batch.remove)))


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
        stale = self._delete(old.key for old, _ in batch.change)
        pending = {r.key: r for r in (*batch.add, *(new for _, new in batch.change)) if r.key not in stale}
        failed = stale
        for _ in range(ATTEMPTS):
            if not pending:
                break
            script = Script(next(iter(pending)).family)
            for row in pending.values():
                script.set(row)
            errors = self._nftables.nft.run(str(script))
            if not errors:
                pending.clear()
                break
            culprits = [key for key in script.culprits(errors) if isinstance(key, NftSetKey)] or list(pending)
            for key in culprits:
                failed[key] = complaint(errors)
                pending.pop(key, None)
        failed.update(dict.fromkeys(pending, "not tried: too many others were refused"))
        return Outcome(failed | self._delete(row.key for row in batch.remove))

    def _delete(self, keys: Iterable[NftSetKey]) -> Failures:
        requests: list[Request] = [
            ((key,), (wire.delete_set(key.family, TABLE_NAME[key.family], key.name),)) for key in keys
        ]
        return self._nftables.commit(requests)


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
        by_set: dict[NftSetKey, list[NftElementKey]] = {}
        for row in rows:
            by_set.setdefault(row.key.set, []).append(row.key)
        requests: list[Request] = [
            (tuple(part), (_elements(what, name, part),))
            for name, keys in by_set.items()
            for at in range(0, len(keys), PER_MESSAGE)
            if (part := keys[at : at + PER_MESSAGE])
        ]

        def single(key: Hashable) -> Request:
            assert isinstance(key, NftElementKey)
            return (key,), (_elements(what, key.set, [key]),)

        return self._nftables.commit(requests, single)


def _elements(what: int, name: NftSetKey, keys: list[NftElementKey]) -> Message:
    """One message for elements of one set, which are all of one form."""
    if keys[0].last:
        packed: Iterable[bytes] = [wire.pack_range(key.first, key.last) for key in keys]
    else:
        packed = wire.pack_keys((key.first for key in keys), len(keys[0].first))
    return wire.elements(what, name.family, TABLE_NAME[name.family], name.name, packed)


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


class ChainDriver:
    """Driver of `NftChain` rows."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables

    def read(self) -> Iterable[NftChain]:
        """All chains of our tables; rules of others in them change the digest, so they are put right."""
        link = self._nftables.link
        for family in NftFamily:
            tags: dict[str, list[str]] = {}
            for chain, comment in wire.rule_comments(link, family, TABLE_NAME[family]):
                tags.setdefault(chain, []).append(comment_tag(comment))
            for facts in wire.chains(link, family, TABLE_NAME[family]):
                hook = None
                if facts.hook is not None and facts.priority is not None:
                    hook = BaseHook(HOOKS.get(facts.hook, str(facts.hook)), facts.priority, facts.accepts)
                digest = chain_digest(tuple(tags.get(facts.name, ())))
                yield NftChain(NftChainKey(family, facts.name), digest, (), hook)

    def owns(self, row: NftChain) -> bool:
        """Everything in our tables is ours."""
        return True

    def write(self, batch: Batch[NftChain]) -> Outcome:
        """Replace and make chains in one transaction, then delete those to be removed in another."""
        moved = {new.key for old, new in batch.change if old.hook != new.hook}
        failed = self._load([*batch.add, *(new for _, new in batch.change)], moved)
        return Outcome(failed | self._unload([row.key for row in batch.remove]))

    def _load(self, rows: Sequence[NftChain], moved: set[NftChainKey]) -> Failures:
        pending = {row.key: (row, row.rules) for row in rows}
        failed: Failures = {}
        for _ in range(ATTEMPTS):
            if not pending:
                return failed
            script = Script(next(iter(pending)).family)
            for row, rules in pending.values():
                if row.key in moved:
                    script.drop_chain(row.key)
                script.chain(row, rules)
            errors = self._nftables.nft.run(str(script))
            if not errors:
                return failed
            culprits = [key for key in script.culprits(errors) if isinstance(key, NftChainKey)]
            if not culprits and len(pending) > 1:
                return failed | self._halves(pending, moved)
            for key in culprits or list(pending):
                row, rules = pending[key]
                failed.setdefault(key, complaint(errors))
                if row.fallback is None or rules == row.fallback:
                    del pending[key]
                else:
                    pending[key] = row, row.fallback
        return failed | dict.fromkeys(pending, "not tried: too many others were refused")

    def _halves(
        self, pending: dict[NftChainKey, tuple[NftChain, tuple[str, ...]]], moved: set[NftChainKey]
    ) -> Failures:
        """Load in two transactions what fails in one without saying where; what is referred to comes first."""
        ordered = [pending[key] for key in _referred_first({key: rules for key, (_, rules) in pending.items()})]
        middle = len(ordered) // 2
        failed: Failures = {}
        for half in (ordered[:middle], ordered[middle:]):
            rows = [NftChain(row.key, row.digest, rules, row.hook, row.fallback) for row, rules in half]
            failed |= self._load(rows, moved)
        return failed

    def _unload(self, keys: Sequence[NftChainKey]) -> Failures:
        """Empty all chains, for they refer to each other, then delete them."""
        pending = dict.fromkeys(keys)
        failed: Failures = {}
        for _ in range(ATTEMPTS):
            if not pending:
                return failed
            kinds = (wire.flush_chain, wire.delete_chain)
            steps = [(key, kind(key.family, TABLE_NAME[key.family], key.name)) for kind in kinds for key in pending]
            codes = self._nftables.link.commit([message for _, message in steps])
            refused = {key: code for (key, _), code in zip(steps, codes, strict=True) if code}
            if not refused:
                return failed
            for key, code in refused.items():
                del pending[key]
                if code != errno.ENOENT:
                    failed[key] = REASONS.get(code) or error_text(code)
        return failed | dict.fromkeys(pending, "not tried: too many others were refused")


def _referred_first(chains: dict[NftChainKey, tuple[str, ...]]) -> list[NftChainKey]:
    depths: dict[NftChainKey, int] = {}

    def depth(key: NftChainKey) -> int:
        if key not in depths:
            depths[key] = 0  # ends the walk in a loop
            below = (NftChainKey(key.family, name) for name in jumps(chains[key]))
            depths[key] = 1 + max((depth(other) for other in below if other in chains), default=0)
        return depths[key]

    return sorted(chains, key=depth)


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


def _verdict(what: int, key: NftVerdictKey, packed: Iterable[bytes]) -> Message:
    return wire.elements(what, key.map.family, TABLE_NAME[key.map.family], key.map.name, packed)


def _delete(key: NftVerdictKey) -> Message:
    return _verdict(wire.DELSETELEM, key, wire.pack_keys((key.packed,), len(key.packed)))


def _add(row: NftVerdict) -> Message:
    return _verdict(wire.NEWSETELEM, row.key, (wire.pack_verdict(row.key.packed, row.chain),))
