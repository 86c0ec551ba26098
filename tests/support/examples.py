"""How many examples a property is tried with: few enough for every day, and ten times as many with `FULL=1`."""

from __future__ import annotations

from hypothesis import settings

from tests.support.lanes import full


def examples(number: int) -> settings:
    """So many examples in the short form, as a decorator."""
    return settings(max_examples=number * (10 if full() else 1), deadline=None)
