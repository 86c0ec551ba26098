"""In which order chains are loaded."""

from __future__ import annotations

from kuberouter.drivers.walk import as_walked


def test_what_a_walk_meets_together_is_loaded_together() -> None:
    below = {"b": "", "a": "", "T": "FS", "s": "", "S": "bs", "F": "asx"}
    assert as_walked({name: list(leads) for name, leads in below.items()}) == ["a", "s", "F", "b", "S", "T"]


def test_a_circle_comes_behind_and_nothing_twice() -> None:
    below = {"X": "Y", "Y": "ZXX", "Z": "XE", "T": "l", "l": ""}
    found = as_walked({name: list(leads) for name, leads in below.items()})
    assert found[:2] == ["l", "T"]
    assert sorted(found[2:]) == ["X", "Y", "Z"]
