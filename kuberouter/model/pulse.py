"""The sign of life of a loop: when it last got on, and whether that is too long ago. The clock is given."""

from __future__ import annotations

from collections.abc import Callable

WEDGED_AFTER = 120.0
"""Seconds without getting on after which a loop counts as not alive. What it waits for meanwhile may take as long as
the slowest bounded write or request, and a slow machine must not be killed for being slow."""


class Pulse:
    """Beats while a loop gets on: once in a round, and with each part of a round that may take long.

    A loop that failed beats no more until a whole round went well: what it gets done before it fails again, for ever,
    is no sign of life.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.beat = clock()
        """When it last got on."""
        self._clock = clock
        self._failing = False

    def alive(self) -> bool:
        """Whether it still gets on; called from any thread."""
        return self._clock() - self.beat < WEDGED_AFTER

    def progress(self) -> None:
        """A part of a round is done."""
        if not self._failing:
            self.beat = self._clock()

    def round(self) -> None:
        """It has come round, well."""
        self._failing = False
        self.beat = self._clock()

    def failed(self) -> None:
        """The round has failed by a mistake of ours."""
        self._failing = True
