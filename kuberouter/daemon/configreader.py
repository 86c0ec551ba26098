"""How flags are read into settings: every mistake is gathered, each under the name of its flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kuberouter.daemon.commandline import Parsed, show_duration
from kuberouter.decode.scalars import prefix
from kuberouter.model.core import Family, Prefix

T = TypeVar("T")


class Reader:
    """Reads flags and gathers every mistake."""

    def __init__(self, parsed: Parsed) -> None:
        self._values = parsed.values
        self.given = parsed.given
        self.errors: list[str] = []

    def flag(self, name: str, kind: type[T]) -> T:
        """The value of a flag, of the type that it is known to have."""
        value = self._values[name]
        assert isinstance(value, kind)
        return value

    def wrong(self, name: str, why: str) -> None:
        """Note a mistake in a flag."""
        self.errors.append(f"--{name}: {why}")

    def checked(self, name: str, parse: Callable[[str], T], text: str) -> T | None:
        """What `parse` makes of a text, or None and a mistake."""
        try:
            return parse(text)
        except ValueError as error:
            self.wrong(name, str(error))
            return None

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """A flag that takes one of a few words."""
        chosen = self.flag(name, str)
        if chosen not in choices:
            self.wrong(name, f"{chosen!r} is not one of {', '.join(choices)}")
        return chosen

    def within(self, name: str, least: int, most: int) -> int:
        """A flag that takes a number from `least` to `most`."""
        number = self.flag(name, int)
        if not least <= number <= most:
            self.wrong(name, f"{number} is not a number from {least} to {most}")
        return number

    def seconds(self, name: str, least: int, most: int) -> int:
        """A flag that takes whole seconds, from `least` to `most` of them."""
        seconds = self.flag(name, float)
        if seconds != int(seconds) or not least <= seconds <= most:
            self.wrong(name, f"{show_duration(seconds)} is not a whole number of seconds from {least} to {most}")
        return int(seconds)

    def prefixes(self, name: str, families: tuple[Family, ...]) -> tuple[Prefix, ...]:
        """A flag that takes CIDR blocks, of families that are in use."""
        found: list[Prefix] = []
        for text in self.flag(name, tuple):
            block = self.checked(name, prefix, text)
            if block is None:
                continue
            if block.family not in families:
                family = "IPv4" if block.family is Family.IPV4 else "IPv6"
                hint = "" if name in self.given else f"; it is the default, set --{name}"
                self.wrong(name, f"{text} is an {family} CIDR block while {family} is disabled{hint}")
            found.append(block)
        return tuple(found)
