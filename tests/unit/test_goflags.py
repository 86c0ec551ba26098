"""All 79 flags of the Go kube-router are there: name, type and default; and those of its early days are taken."""

from __future__ import annotations

import pytest

from kuberouter.daemon.commandline import parse, past
from kuberouter.daemon.flags import BOOL, FLAGS, Flag
from tests.support.flagpage import default
from tests.support.goflags import DIFFERENT, GO_FLAGS, SEED_ERA, GoFlag

OURS = {flag.name: flag for flag in FLAGS}
ZERO = ("", "0", "0s", "false")


def shown(flag: Flag) -> str:
    """A default as the facts have it: nothing for zero, false and empty, but for a text."""
    text = default(flag)
    return "" if text in ZERO and flag.name != "v" else text


def kind(flag: Flag) -> str:
    """A type in their words."""
    return "bool" if flag.kind is BOOL else flag.kind.label


def test_all_79_are_there() -> None:
    assert len({flag.name for flag in GO_FLAGS}) == 79
    assert [flag.name for flag in GO_FLAGS if flag.name not in OURS] == []


@pytest.mark.parametrize("go", [flag for flag in GO_FLAGS if flag.name in OURS], ids=lambda flag: str(flag.name))
def test_type_and_default_are_the_same_or_differ_on_purpose(go: GoFlag) -> None:
    ours = OURS[go.name]
    assert kind(ours) == go.kind
    assert not ours.past
    assert (shown(ours) != go.default) == (go.name in DIFFERENT), (shown(ours), go.default)


def test_every_difference_is_about_a_flag_of_theirs() -> None:
    assert DIFFERENT.keys() <= {flag.name for flag in GO_FLAGS}


@pytest.mark.parametrize("old", SEED_ERA, ids=lambda flag: str(flag.name))
def test_what_they_have_taken_out_is_taken_here_and_told(old: GoFlag) -> None:
    ours = OURS[old.name]
    assert (kind(ours), shown(ours)) == (old.kind, old.default)
    (told,) = past(parse([f"--{old.name}={old.default}"]))
    assert told == f"--{old.name} has no effect: {ours.past}"
    assert past(parse([])) == []
