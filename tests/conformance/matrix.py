"""What runs where: backends by families by scenarios, in a short form for every day and a full one.

In the short form every scenario meets every backend: those written by hand in dual stack, those by chance in one mode
each, in turns. `FULL=1` runs everything on everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.support.lanes import full

BACKENDS = ("iptables-nft", "iptables-legacy", "nftables")
MODES: dict[str, tuple[int, ...]] = {"IPv4": (4,), "IPv6": (6,), "dual stack": (4, 6)}
DUAL = "dual stack"
STATES, SEQUENCES, STEPS = 60, 9, 10
"""How many states by chance, how many sequences of edits, and how many edits in each."""


class Place(NamedTuple):
    """One cell of the matrix."""

    backend: str
    mode: str

    def __str__(self) -> str:
        return f"{self.backend}, {self.mode}"


class Tally(NamedTuple):
    """What was counted in a place."""

    scenarios: int = 0
    verdicts: int = 0
    mismatches: int = 0


def places() -> Iterator[Place]:
    """Every cell."""
    return (Place(backend, mode) for backend in BACKENDS for mode in MODES)


def everywhere(names: Iterable[str]) -> list[tuple[Place, str]]:
    """Scenarios that every backend should meet in dual stack, or in every mode."""
    listed = list(names)
    return [(place, name) for place in places() if full() or place.mode == DUAL for name in listed]


def in_turns(names: Iterable[str]) -> list[tuple[Place, str]]:
    """Scenarios that every backend should meet in some mode, or in every."""
    listed = list(names)
    return [
        (place, name)
        for place in places()
        for number, name in enumerate(listed)
        if full() or list(MODES)[(number + BACKENDS.index(place.backend)) % len(MODES)] == place.mode
    ]
