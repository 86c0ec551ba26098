"""When a table that gobgpd tells of is taken to be whole, so that what it did not tell of may go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import pytest

from kuberouter.model.bgp import Speaker, SpeakerKey
from kuberouter.model.core import Prefix, Unavailable
from kuberouter.model.events import Deleted, Event, Synced
from kuberouter.sources.learned import ALONE, QUIET, TICK, LearnedSource
from kuberouter.wire.gobgp.client import BestPath, Sessions
from kuberouter.wire.gobgp.gobgpd import Gobgp

STEP = 0.1
BOUND, LONGEST = 30.0, 300.0
HOP = bytes((192, 0, 2, 1))
PATHS = [BestPath(Prefix(bytes((10, number, 0, 0)), 16), HOP, own=False) for number in (1, 2)]


class World:
    """A gobgpd whose sessions follow a script, and time that passes with each look at the clock."""

    def __init__(self, *scripts: Callable[[float], Sessions]) -> None:
        """A script per connection: the sessions by the seconds since it began. What is told is told at its start."""
        self.scripts = list(scripts)
        self.starts = 0
        self.api = self
        self.now = 0.0
        self.began = 0.0
        self.whole: list[float] = []
        """Seconds after which each connection's table was taken to be whole."""
        self.gone: list[float] = []
        """Seconds after which routes were told to be gone."""
        self._stop = threading.Event()
        # Without peers there is nothing to tell.
        self._told = [PATHS] if scripts[0](0.0).configured else []
        self._over = threading.Event()

    def clock(self) -> float:
        self.now += STEP
        return self.now

    def speaker(self) -> Speaker:
        if not self.scripts:
            self._stop.set()
            raise Unavailable("the script is over")
        self.began = self.now
        self._over.clear()
        return Speaker(SpeakerKey(), 64512, HOP)

    def sessions(self) -> Sessions:
        since = self.now - self.began
        if since > 2 * LONGEST:
            self._over.set()
        return self.scripts[0](since)

    def watch(self) -> World:
        return self

    def __iter__(self) -> Iterator[Sequence[BestPath]]:
        yield self._told.pop(0) if self._told else []
        # Nothing more is told, but each message is an occasion to look at the clock.
        while not self._over.is_set():
            yield ()
        raise Unavailable("gobgpd died")

    def cancel(self) -> None:
        self.scripts.pop(0)

    def put(self, event: Event) -> None:
        if isinstance(event, Synced):
            self.whole.append(self.now - self.began)
            self._over.set()
        if isinstance(event, Deleted):
            self.gone.append(self.now - self.began)
            self._over.set()

    def run(self) -> None:
        source = LearnedSource(cast(Gobgp, self), bound=BOUND, longest=LONGEST, clock=self.clock)
        source.run(self, self._stop)


def from_on(seconds: float, before: Sessions, after: Sessions) -> Callable[[float], Sessions]:
    return lambda since: after if since >= seconds else before


SETTLED = from_on(0, Sessions(2, 2), Sessions(2, 2))


@pytest.mark.parametrize(
    ("script", "least"),
    [
        (SETTLED, QUIET),
        # A node alone, at its start.
        (from_on(0, Sessions(0, 0), Sessions(0, 0)), ALONE),
        # Who comes up has its routes to send yet.
        (from_on(10, Sessions(2, 1), Sessions(2, 2)), 10 + QUIET - TICK),
        # Who never comes up is not waited for for ever.
        (from_on(0, Sessions(2, 1), Sessions(2, 1)), BOUND),
        # Whose routes are all there says so, and is believed; but what it says counts however long that takes.
        (from_on(100, Sessions(2, 2, 1), Sessions(2, 2)), 100),
        (from_on(100, Sessions(2, 1, 1), Sessions(2, 1)), 100),
        (from_on(0, Sessions(2, 2, 1), Sessions(2, 2, 1)), LONGEST),
    ],
    ids=["settled", "alone", "late", "missing", "owing", "owing and missing", "owing for ever"],
)
def test_when_the_first_picture_is_whole(script: Callable[[float], Sessions], least: float) -> None:
    world = World(script)
    world.run()
    (whole,) = world.whole
    assert least <= whole <= least + 2 * TICK


@pytest.mark.parametrize(
    ("script", "least"),
    [
        (SETTLED, QUIET),
        # Those that there were may just not be configured yet.
        (from_on(20, Sessions(0, 0), Sessions(2, 2)), 20),
        (from_on(0, Sessions(0, 0), Sessions(0, 0)), BOUND),
        (from_on(50, Sessions(2, 2, 2), Sessions(2, 2)), 50),
    ],
    ids=["settled", "not configured yet", "none any more", "owing"],
)
def test_when_the_routes_of_a_gobgpd_that_died_are_stale(script: Callable[[float], Sessions], least: float) -> None:
    world = World(SETTLED, script)
    world.run()
    assert len(world.gone) == len(PATHS)
    assert least <= world.gone[0] <= least + 2 * TICK
