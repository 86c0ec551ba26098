"""What stands in for rules that the kernel refuses, as the rows of chains say: pure, for the drivers of chains.

A row names in `spares` which of its rules may be replaced or left out, and in `fallback` the rules to put in where that
does not do. Only what the tool or the kernel blames is replaced; where it blames nothing, one kind after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

import msgspec

from kuberouter.model.core import Outcome
from kuberouter.model.netfilter import Chain, chain_tag
from kuberouter.model.nftables import NftChain

K = TypeVar("K", bound=Hashable)
R = TypeVar("R", Chain, NftChain)

LEFT_OUT = ("", "")
"""The spare of any rule of a chain."""
MOST_NAMED = 3
"""Rules of a chain that are named where some are left out."""


class Losses:
    """What was refused of the rows of one write, and what is there in its place."""

    def __init__(self) -> None:
        self._failed: dict[Hashable, str] = {}
        self._instead: dict[Hashable, dict[str, None]] = {}
        self._missing: dict[Hashable, list[str]] = {}

    def fail(self, keys: Collection[Hashable], why: str) -> None:
        """These rows are not in the kernel, nor is anything that stands in for them; what was said first stays."""
        for key in keys:
            self._failed.setdefault(key, why)

    def weaken(self, pending: dict[K, R], key: K, refused: Collection[str], why: str) -> None:
        """Put into `pending` what stands in for these rules of a row, or take the row out where nothing does.

        With no rule known to be refused one kind goes after the other. What one row can do without and does not get, no
        other is asked to have either. That is no failure; rules that are left out for want of anything better are one,
        and so is the fallback.
        """
        row = pending[key]
        found = [_spare(row, rule) for rule in dict.fromkeys(refused)] or [_first(row)]
        if None in found:
            del pending[key]
            self._instead.pop(key, None)
            self._missing.pop(key, None)
            self._failed.setdefault(key, why)
            if row.fallback is not None:
                pending[key] = _holding(row, row.fallback, spares=(), fallback=None)
            return
        left_out = [rule for rule in refused if _spare(row, rule) == LEFT_OUT]
        if left_out:
            self._missing.setdefault(key, []).extend(f"{rule} ({why})" for rule in left_out)
            pending[key] = _holding(row, tuple(rule for rule in row.rules if rule not in left_out))
        for spare in found:
            if spare is not None and spare != LEFT_OUT:
                pending |= {other: self._without(each, spare) for other, each in pending.items()}

    def _without(self, row: R, spare: tuple[str, str]) -> R:
        words, text = spare
        if spare not in row.spares or not any(words in rule for rule in row.rules):
            return row
        done = f"{text!r} stands in for them" if text else "they are left out"
        told = f"rules with {words!r} are refused, a module may be missing; {done}"
        self._instead.setdefault(row.key, {})[told] = None
        rules = (text if words in rule else rule for rule in row.rules)
        return _holding(row, tuple(rule for rule in rules if rule))

    def outcome(self, failed: Mapping[Hashable, str]) -> Outcome:
        """All of it, with other rows that failed."""
        left = {key: _named(rules) for key, rules in self._missing.items()}
        lost = {**left, **self._failed, **failed}
        return Outcome(lost, {key: "; ".join(texts) for key, texts in self._instead.items() if key not in lost})


def _holding(row: R, rules: tuple[str, ...], **changes: object) -> R:
    return msgspec.structs.replace(row, rules=rules, tag=chain_tag(rules), **changes)


def _spare(row: Chain | NftChain, rule: str) -> tuple[str, str] | None:
    found = next((spare for spare in row.spares if spare[0] in rule), None)
    return found if found is not None and found[1] != rule else None


def _first(row: Chain | NftChain) -> tuple[str, str] | None:
    """The first spare that changes anything. Nobody knows which rule to leave out of those of which any may go."""
    return next((s for s in row.spares if s[0] and s[0] != s[1] and any(s[0] in rule for rule in row.rules)), None)


def _named(rules: list[str]) -> str:
    more = f" and {len(rules) - MOST_NAMED} more" if len(rules) > MOST_NAMED else ""
    return f"left out: {'; '.join(rules[:MOST_NAMED])}{more}"
