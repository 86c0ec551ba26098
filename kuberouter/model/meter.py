"""Who wants to know how long work takes. Apart from the other ports, for drivers know nothing of what those name."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Somebody who wants to know how long things take. Callable from any thread; never blocks for long, never raises.

    What is not asked for is dropped, so whoever does the work need not know what is wanted.
    """

    def observe(self, what: str, seconds: float) -> None: ...


class Unmetered:
    """The meter of those who do not want to know."""

    def observe(self, what: str, seconds: float) -> None:
        """Drop it."""


UNMETERED: Meter = Unmetered()
