"""What the drivers of our nftables tables share: transactions in which a row that is refused holds nobody up."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterator, Sequence

from kuberouter.model.nftables import (
    TABLE_NAME,
    KeyType,
    NftFamily,
    NftSet,
    NftSetKey,
    SetForm,
)
from kuberouter.wire import nftables as wire
from kuberouter.wire.netlink import Message, error_text
from kuberouter.wire.nft import Nft

ATTEMPTS = 64
"""Most transactions for one batch; each failed one leaves out or replaces at least one row."""
PER_COMMIT = 2 << 20
"""Bytes of one transaction of elements."""
PER_FILL = 1 << 16
"""Bytes of one transaction of sets with their elements: the kernel looks for a set along all that are new in it."""
REASONS = {
    errno.ENOENT: "what it refers to does not exist",
    errno.EBUSY: "something still refers to it",
    errno.EEXIST: "it overlaps with what is there",
}
KEY_TYPES = {kind.value: kind for kind in KeyType}
FORMS = {0: SetForm.KEYS, wire.SET_INTERVAL: SetForm.RANGES, wire.SET_MAP: SetForm.VERDICTS}

Failures = dict[Hashable, str]
Request = tuple[tuple[Hashable, ...], tuple[Message, ...]]
"""Keys of rows and the messages that write them together; a missing thing that should be deleted is no failure.

One that makes a set is the first of them, for these are sent before all others.
"""


class Nftables:
    """The socket, and the way for scripts. Without `direct` all rules go that way; `library` as for `Nft`."""

    def __init__(self, *, direct: bool = True, library: bool = True) -> None:
        self.link = wire.NftSocket()
        self.nft = Nft(library=library)
        self.direct = direct

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

    def commit(
        self, requests: Sequence[Request], split: Callable[[Hashable], Request] | None = None, *, most: int = PER_COMMIT
    ) -> Failures:
        """Write requests in few transactions, of `most` bytes each and what its last request has beyond that.

        Of requests with several keys that fail `split` makes single ones.
        """
        failed: Failures = {}
        part: list[Request] = []
        size = 0
        for request in requests:
            part.append(request)
            size += sum(len(body) + 16 for _, _, body in request[1])
            if size > most:
                failed |= self._commit(part, split)
                part, size = [], 0
        return failed | self._commit(part, split)

    def _commit(self, requests: list[Request], split: Callable[[Hashable], Request] | None) -> Failures:
        failed: Failures = {}
        for _ in range(ATTEMPTS):
            numbered = [(number, message) for number, (_, messages) in enumerate(requests) for message in messages]
            # Older kernels (6.1) look for a set by its number from the beginning of the transaction on.
            numbered.sort(key=_makes_no_set)
            results = self.link.commit([message for _, message in numbered])
            if not any(results):
                return failed
            codes: list[list[int]] = [[] for _ in requests]
            for (number, _), code in zip(numbered, results, strict=True):
                codes[number].append(code)
            again: list[Request] = []
            for answers, (keys, messages) in zip(codes, requests, strict=True):
                gone = [_deletes(m) and code == errno.ENOENT for m, code in zip(messages, answers, strict=True)]
                code = next((c for c, missing in zip(answers, gone, strict=True) if c and not missing), 0)
                if len(keys) > 1 and any(answers) and split is not None:
                    again += map(split, keys)
                elif code:
                    failed.update((key, reason(code)) for key in keys)
                elif left := tuple(m for m, missing in zip(messages, gone, strict=True) if not missing):
                    again.append((keys, left))
            if not again:
                return failed
            requests = again
        return failed | {key: "not tried: too many others were refused" for keys, _ in requests for key in keys}


def _makes_no_set(numbered: tuple[int, Message]) -> bool:
    return numbered[1][0] & 0xFF != wire.NEWSET


def _deletes(message: Message) -> bool:
    return message[0] & 0xFF in (wire.DELTABLE, wire.DELCHAIN, wire.DELRULE, wire.DELSET, wire.DELSETELEM)


def reason(code: int) -> str:
    """What an errno says of a row."""
    return REASONS.get(code) or error_text(code)
