"""Every scenario, and every step of every sequence of edits, against real packets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conformance.arena import OPEN, Arena
from tests.conformance.conftest import TALLY
from tests.conformance.generate import edits, seed, state
from tests.conformance.matrix import SEQUENCES, STATES, STEPS, Place, everywhere, in_turns
from tests.conformance.scenarios import WRITTEN
from tests.conformance.topology import Topology
from tests.conformance.vocabulary import PODS, merged

BY_CHANCE = {f"state {number}": number for number in range(seed(), seed() + STATES)}
EDITED = {f"edits {number}": number for number in range(seed(), seed() + SEQUENCES)}
RUNS = sorted([*everywhere(WRITTEN), *in_turns(BY_CHANCE), *in_turns(EDITED)], key=lambda run: run[0])
# What happens in one place happens in one process, in this order.
PARAMETERS = [
    pytest.param(*run, id="-".join(map(str, run)), marks=pytest.mark.xdist_group(str(run[0]))) for run in RUNS
]


class Arenas:
    """One arena at a time: scenarios in the same place follow each other on the same nodes, as edits do."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._arena: Arena | None = None

    def at(self, place: Place) -> Arena:
        """The arena of a place; that of another one is taken down."""
        if self._arena is None or self._arena.place != place:
            self.close()
            topology = self._stack.enter_context(Topology({name: node for name, (node, _, _) in PODS.items()}))
            self._arena = self._stack.enter_context(Arena(topology, place))
            assert self._arena.closed() == [], "paths are closed before the first policy"
        return self._arena

    def close(self) -> None:
        """Take everything down, after a look at whether the policies left something behind."""
        arena, self._arena = self._arena, None
        with self._stack:
            assert arena is None or arena.closed() == [], "paths are still closed after the last policy"


@pytest.fixture(scope="module")
def arenas() -> Iterator[Arenas]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    arenas = Arenas()
    yield arenas
    arenas.close()


@pytest.fixture
def arena(arenas: Arenas, place: Place, request: pytest.FixtureRequest) -> Iterator[Arena]:
    arena = arenas.at(place)
    yield arena
    request.node.user_properties += [(TALLY, (*place, *tally)) for tally in arena.tallies()]


@pytest.mark.parametrize(("place", "name"), PARAMETERS)
def test_packets_meet_what_the_oracle_says(arena: Arena, name: str) -> None:
    if name in WRITTEN:
        assert arena.mismatches(merged(arena.base, WRITTEN[name])) == []
    elif name in BY_CHANCE:
        assert arena.mismatches([*arena.nodes, *state(BY_CHANCE[name]).manifests()]) == []
    else:
        done = []
        for word, found in edits(EDITED[name], STEPS):
            done.append(word)
            assert arena.mismatches([*arena.nodes, *found.manifests()]) == [], done
    if name == "deny everything everywhere":
        # nd_always, pain 32: without neighbour discovery there would be no answer over IPv6.
        assert arena.echoes() == {OPEN}, "an echo passes whatever policies say"
