"""The most telling checks of `make interop`, with gobgpd 3: for every day."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.interop.__main__ import Verdict, judge, table
from tests.interop.arena import Arena, Wrong
from tests.interop.checks import CHECKS, Check, Skip
from tests.support import gobgpd as programs
from tests.support.pages import block
from tests.support.routers import ROUTERS, Bird

pytestmark = pytest.mark.root
SHORT = [check for check in CHECKS if check.short]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    if os.geteuid():
        pytest.skip("needs root")
    if missing := [make.software for make in ROUTERS if not make.installed()]:
        pytest.fail(f"not installed: {', '.join(missing)}; .ci/setup does that")
    with Arena(gobgpd=programs.V3, full=False) as arena:
        yield arena


@pytest.mark.parametrize("software", [make.software for make in ROUTERS])
@pytest.mark.parametrize("check", SHORT, ids=[check.run.__name__ for check in SHORT])
def test_with_a_router_that_is_none_of_ours(arena: Arena, check: Check, software: str) -> None:
    assert check.run(arena, software)


def test_what_breaks_is_that_checks_failure_and_what_cannot_be_tried_is_none(arena: Arena) -> None:
    def wrong(_: Arena, __: str) -> str:
        raise Wrong("no")

    def skipped(_: Arena, __: str) -> str:
        raise Skip("not here")

    def broken(_: Arena, __: str) -> str:
        raise KeyError("x")

    found = {}
    for run, word in ((wrong, "FAILED"), (skipped, "skipped"), (broken, "FAILED"), (lambda *_: "seen", "ok")):
        verdict = judge(arena, Check(word, run), "bird")
        assert verdict.word == word
        found[word, "bird, gobgp3"] = verdict
    found["ok", "frr, gobgp3"] = Verdict("ok", "")
    assert table(found).splitlines() == [
        "feature  bird, gobgp3  frr, gobgp3",
        "FAILED   FAILED        -",
        "skipped  skipped       -",
        "ok       ok            ok",
    ]


def test_a_router_runs_what_the_page_shows_and_an_option_that_it_does_not_show_is_no_option(arena: Arena) -> None:
    router = arena.near["bird"]
    shown = block("bgp.md", "bird")
    own = router.configuration()
    assert len(own.splitlines()) == len(shown.splitlines())
    assert "192.0.2." not in own
    assert "\n    multihop 5;" in router.configuration("multihop")
    assert "\n    multihop 5;" not in own
    with pytest.raises(AssertionError, match="has no line for teleport"):
        router.configuration("teleport")
    assert Bird.software == router.software
