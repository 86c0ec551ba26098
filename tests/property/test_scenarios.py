"""Scenarios with a number of their own, on compiled rows of both backends: what the rows say is what the table says.

The conformance runs put the same scenarios, and all others, before real packets.
"""

from __future__ import annotations

import pytest

from tests.conformance.scenarios import SERVES, WRITTEN
from tests.conformance.vocabulary import merged
from tests.property.paths import BASE, Paths, expected, mismatches
from tests.property.test_policies import BACKENDS

RUNS = list(dict.fromkeys(name for names in SERVES.values() for name in names))
NUMBERS = {name: "+".join(number for number, names in SERVES.items() if name in names) for name in RUNS}


@pytest.fixture(scope="module", params=list(BACKENDS))
def paths(request: pytest.FixtureRequest) -> Paths:
    """Nodes that go from one scenario to the next, as under edits."""
    return Paths(request.param)


@pytest.mark.parametrize("name", RUNS, ids=[f"{NUMBERS[name]}: {name}" for name in RUNS])
def test_compiled_rows_mean_what_the_manifests_say(paths: Paths, name: str) -> None:
    manifests = merged(BASE, WRITTEN[name])
    paths.apply(manifests)
    wanted = expected(manifests)
    assert mismatches(paths.passing(), wanted) == []
