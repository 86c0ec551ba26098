"""In which order chains are loaded."""

from __future__ import annotations

from kuberouter.drivers.iptables import _as_walked
from kuberouter.model.core import Family
from kuberouter.model.netfilter import ChainKey, Table


def walked(**chains: tuple[str, ...]) -> list[str]:
    return [key.name for key in _as_walked({ChainKey(Family.IPV4, Table.FILTER, n): r for n, r in chains.items()})]


def test_what_a_walk_meets_together_is_loaded_together() -> None:
    top, first, second = ("-j FIRST", "-p tcp -g SECOND"), ("-j A", "-j SHARED"), ("-m set -j B", "-j SHARED")
    assert walked(B=(), A=("-j RETURN",), TOP=top, SHARED=(), SECOND=second, FIRST=first) == [
        "A",
        "SHARED",
        "FIRST",
        "B",
        "SECOND",
        "TOP",
    ]


def test_a_circle_comes_behind_and_nothing_twice() -> None:
    names = walked(X=("-j Y",), Y=("-g Z", "-j X", "-j X"), Z=("-j X", "-j ELSEWHERE"), TOP=("-j LEAF",), LEAF=())
    assert names[:2] == ["LEAF", "TOP"]
    assert sorted(names[2:]) == ["X", "Y", "Z"]
