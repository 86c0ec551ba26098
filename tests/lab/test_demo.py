"""The demo's own honesty: its pieces, and that nothing passes in a cluster without a daemon."""

from __future__ import annotations

import io
import json
import time

import pytest

from tests.lab.checks import CHECKS, SHOP, Check, Seen, Shop, Wrong, admitted, denied, routes_learnt
from tests.lab.demo import judge, summary
from tests.lab.look import command, listing
from tests.lab.screen import Screen, State
from tests.support.lab import Lab

pytestmark = pytest.mark.root


def test_without_a_daemon_pods_meet_and_policies_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lab.checks.BOUND", 0.5)
    out = io.StringIO()
    with Lab(nodes=3, subnets=1) as lab:
        lab.wire_statically()
        lab.apply((SHOP / "10-pods.yaml").read_text())
        shop = Shop(lab, time.monotonic())
        lines = judge(shop, [check for check in CHECKS if check.run in (denied, admitted)], Screen(out, False))
        assert [line.state for line in lines] == [State.FAILED, State.FAILED]
        assert "stranger -> 10.244.1." in lines[0].seen
        assert summary(lines, 1.0) == "demo: 0 passed, 2 failed in 1 s"
        assert "FAILED" in out.getvalue()
        objects = json.loads((lab.home / "objects.json").read_text())
        shown = listing(objects)
        assert "shop/frontend-1" in shown
        assert "10.244.3.0/24" in shown
        assert command(lab.home, "node1", ["true"])[1] == f"--net=/run/netns/{lab.prefix}-node1"


def test_a_check_that_cannot_run_here_is_skipped_by_name_and_a_broken_one_fails() -> None:
    def broken(_: Shop) -> Seen:
        raise RuntimeError("no such thing")

    def wrong(_: Shop) -> Seen:
        raise Wrong("dropped")

    def right(_: Shop) -> Seen:
        return Seen("allowed", 0.002)

    checks = [
        Check("needs", right, ("no_such_link_type",)),
        Check("breaks", broken),
        Check("fails", wrong),
        Check("passes", right),
    ]
    out = io.StringIO()
    lines = judge(None, checks, Screen(out, False))  # type: ignore[arg-type]  # these checks need no shop
    assert [line.state for line in lines] == [State.SKIPPED, State.FAILED, State.FAILED, State.PASSED]
    assert summary(lines, 2.4) == "demo: 1 passed, 2 failed, 1 skipped in 2 s"
    assert "this kernel lacks no_such_link_type" in out.getvalue()
    assert "2 ms" in out.getvalue()


def test_every_check_of_the_demo_has_its_own_title() -> None:
    assert len({check.title for check in CHECKS}) == len(CHECKS) >= 10
    assert CHECKS[0].run is routes_learnt
