"""A command line to the values of flags, by the rules that kube-router's users know (those of pflag), and the help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kuberouter.daemon.flags import BOOL, DURATION, FLAGS, STRING, Flag, Value


class UsageError(Exception):
    """An unknown flag or a value that it cannot take. The text names both."""


class Parsed(NamedTuple):
    """The outcome of parsing: a value for every flag, the flags that were given, and what was no flag."""

    values: Mapping[str, Value]
    given: frozenset[str]
    positionals: tuple[str, ...]


def parse(arguments: Sequence[str], table: Sequence[Flag] = FLAGS) -> Parsed:
    """Read a command line.

    `--f=v`, `--f v`, `-v2`, `-v 2` and `-v=2` are the same; a boolean never takes the next word; the first use of a
    list replaces its default and later ones append; of scalars the last use counts; there are no abbreviations; `--`
    ends the flags. Raises UsageError at the first word that is wrong.
    """
    return _Reader(arguments, table).read()


class _Reader:
    def __init__(self, arguments: Sequence[str], table: Sequence[Flag]) -> None:
        self._long = {flag.name: flag for flag in table}
        self._short = {flag.short: flag for flag in table if flag.short}
        self._words = list(reversed(arguments))
        self._values: dict[str, Value] = {flag.name: flag.default for flag in table}
        self._given: set[str] = set()

    def read(self) -> Parsed:
        positionals: list[str] = []
        while self._words:
            word = self._words.pop()
            if word == "--":
                positionals += reversed(self._words)
                break
            if word.startswith("--"):
                self._read_long(word)
            elif word.startswith("-") and word != "-":
                self._read_letters(word)
            else:
                positionals.append(word)
        return Parsed(self._values, frozenset(self._given), tuple(positionals))

    def _read_long(self, word: str) -> None:
        name, equals, text = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        flag = self._long.get(name)
        if flag is None:
            raise UsageError(f"unknown flag: --{name}")
        self._set(flag, text if equals else self._argument(flag, f"--{name}"))

    def _read_letters(self, word: str) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._short.get(letter)
            if flag is None:
                raise UsageError(f"unknown shorthand flag: {letter!r} in {word}")
            if len(letters) > 1 and letters.startswith("="):
                text, letters = letters[1:], ""
            elif flag.kind is BOOL:
                text = "true"
            else:
                text, letters = letters or self._argument(flag, f"-{letter}"), ""
            self._set(flag, text)

    def _argument(self, flag: Flag, shown: str) -> str:
        if flag.kind is BOOL:
            return "true"
        if not self._words:
            raise UsageError(f"flag needs an argument: {shown}")
        return self._words.pop()

    def _set(self, flag: Flag, text: str) -> None:
        try:
            value = flag.kind.parse(text)
        except ValueError as error:
            name = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
            shown = "" if flag.secret else f" {text!r}"
            raise UsageError(f"invalid argument{shown} for {name}: {error}") from None
        before = self._values[flag.name]
        if flag.name in self._given and isinstance(value, tuple) and isinstance(before, tuple):
            value = (*before, *value)
        self._values[flag.name] = value
        self._given.add(flag.name)


def show_duration(seconds: float) -> str:
    """A duration in Go's spelling: 300 is 5m0s, 1.5 is 1.5s, 0.3 is 300ms."""
    total = round(seconds * 1e9)
    sign, rest = ("-", -total) if total < 0 else ("", total)
    if rest == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1000:
            return f"{sign}{_decimals(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimals(rest, 1_000_000_000)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else sign + text


def _decimals(number: int, unit: int) -> str:
    whole, part = divmod(number, unit)
    digits = str(part).zfill(len(str(unit)) - 1).rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _default(flag: Flag) -> str:
    value = flag.default
    if flag.kind is DURATION and isinstance(value, float):
        return f" (default {show_duration(value)})" if value else ""
    if not value:
        return ""
    if isinstance(value, tuple):
        return f" (default [{','.join(map(str, value))}])"
    if isinstance(value, bool):
        return " (default true)"
    return f' (default "{value}")' if flag.kind is STRING else f" (default {value})"


def usage(program: str, table: Sequence[Flag] = FLAGS) -> str:
    """The help text: every flag that does something, by name, with its default unless that is zero, false or empty."""
    rows = []
    for flag in sorted((each for each in table if not each.past), key=lambda f: f.name):
        short = f"-{flag.short}, " if flag.short else "    "
        rows.append((f"  {short}--{flag.name} {flag.kind.label}".rstrip(), flag.help + _default(flag)))
    width = max(len(left) for left, _ in rows) + 3
    return "\n".join([f"Usage of {program}:", *(left.ljust(width) + right for left, right in rows), ""])


def past(parsed: Parsed, table: Sequence[Flag] = FLAGS) -> list[str]:
    """A sentence for each given flag that has no effect any more."""
    return [f"--{flag.name} has no effect: {flag.past}" for flag in table if flag.past and flag.name in parsed.given]
