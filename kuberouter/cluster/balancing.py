"""Which addresses of load balancers are taken, by whom, and which is the next free one.

Numbers of taken addresses are kept sorted, so that a run of them is jumped over in one step: nothing here takes longer
because a range is large or nearly full.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kuberouter.model.core import Family, ObjectRef, Prefix, family_of

FIRST_CHOICES = 65536
"""Among how many addresses of a range the first choice for a Service is: so those of IPv6 stay short."""


class Span(NamedTuple):
    """Addresses from the first to the last, as numbers."""

    first: int
    last: int


def span_of(block: Prefix, *, edges: bool = True) -> Span:
    """The addresses of a block; without `edges` not those that hosts may not have.

    These are the network's own and the broadcast address of IPv4 (RFC 919), and the routers' anycast address of IPv6
    (RFC 4291, 2.6.1); blocks of one or two addresses have none of them (RFC 3021, RFC 6164).
    """
    first = int.from_bytes(block.address, "big")
    bits = len(block.address) * 8
    last = first + (1 << (bits - block.length)) - 1
    if edges or last - first < 2:
        return Span(first, last)
    return Span(first + 1, last - (block.family is Family.IPV4))


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same addresses, in order, each once."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.first <= found[-1].last + 1:
            found[-1] = Span(found[-1].first, max(found[-1].last, span.last))
        else:
            found.append(span)
    return found


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The addresses that are in none of the others."""
    left = list(spans)
    for other in others:
        cut: list[Span] = []
        for span in left:
            cut += [Span(span.first, min(span.last, other.first - 1)), Span(max(span.first, other.last + 1), span.last)]
        left = [span for span in dict.fromkeys(cut) if span.first <= span.last]
    return merged(left)


class Taken:
    """The addresses that are taken, and by which Services."""

    def __init__(self) -> None:
        self._holders: dict[bytes, dict[ObjectRef, None]] = {}
        self._numbers: dict[Family, list[int]] = {family: [] for family in Family}

    def hold(self, address: bytes, who: ObjectRef) -> None:
        """An address is taken by a Service, beside those that have it already."""
        holders = self._holders.setdefault(address, {})
        if not holders:
            insort(self._numbers[family_of(address)], int.from_bytes(address, "big"))
        holders[who] = None

    def release(self, address: bytes, who: ObjectRef) -> None:
        """A Service does not have an address any more."""
        holders = self._holders[address]
        del holders[who]
        if not holders:
            del self._holders[address]
            numbers = self._numbers[family_of(address)]
            del numbers[bisect_left(numbers, int.from_bytes(address, "big"))]

    def holders(self, address: bytes) -> Iterable[ObjectRef]:
        """Who has an address."""
        return tuple(self._holders.get(address, ()))

    def count(self, family: Family, span: Span) -> int:
        """How many addresses of a span are taken."""
        numbers = self._numbers[family]
        return bisect_right(numbers, span.last) - bisect_left(numbers, span.first)

    def pick(self, family: Family, spans: Sequence[Span], seed: int) -> bytes | None:
        """A free address of the spans, if there is one: always the same for a seed, unless it is taken."""
        total = sum(span.last - span.first + 1 for span in spans)
        if not total:
            return None
        offset, at = seed % min(total, FIRST_CHOICES), 0
        while offset > spans[at].last - spans[at].first:
            offset -= spans[at].last - spans[at].first + 1
            at += 1
        start = spans[at].first + offset
        rest = [*spans[at + 1 :], *spans[:at], Span(spans[at].first, start - 1)]
        for span in (Span(start, spans[at].last), *rest):
            number = self._free(self._numbers[family], span.first)
            if number <= span.last:
                return number.to_bytes(4 if family is Family.IPV4 else 16, "big")
        return None

    @staticmethod
    def _free(numbers: Sequence[int], start: int) -> int:
        """The first number from `start` on that is not taken."""
        first = bisect_left(numbers, start)
        if first == len(numbers) or numbers[first] != start:
            return start
        # The run of taken ones ends where a number is larger than its place in the list says.
        low, high = first, len(numbers) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if numbers[middle] - start == middle - first:
                low = middle
            else:
                high = middle - 1
        return numbers[low] + 1
