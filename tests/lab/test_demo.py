"""The demo's own honesty: its pieces, and that nothing passes in a cluster without a daemon."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import kept
from tests.lab.checks import CHECKS, SHOP, Check, Seen, Shop, Wrong, admitted, denied, restarted, routes_learnt
from tests.lab.demo import judge, summary
from tests.lab.look import answer, command, homes, listing
from tests.lab.screen import Screen, State
from tests.support.lab import Lab, janitor, netns

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
        # A dead ClusterIP is no reason to leave it out where the kernel has IPVS.
        monkeypatch.setattr(netns, "have", lambda feature: feature != "ipip")
        (line,) = judge(shop, [check for check in CHECKS if check.run is restarted], Screen(out, False))
        assert line.state is State.FAILED
        assert re.fullmatch(r"ClusterIP: \w+ before the daemon was touched", line.seen)
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


@pytest.mark.timeout(600)
def test_a_kept_demo_stays_well_and_goes_without_a_trace(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.lab.demo", "--here", f"--keeper={tmp_path}"]
    code = "import sys; from pathlib import Path; from tests.lab import kept; "
    code += "sys.exit(kept.launch(sys.argv[2:], Path(sys.argv[1])))"
    launched = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    (demo,) = kept.alive(tmp_path)
    try:
        assert launched.returncode == 0, launched.stdout
        assert " 0 failed" in launched.stdout
        assert launched.stderr == ""
        (home,) = [home for home in homes() if janitor.owner(home.name) == demo.keeper.pid]
        offered = re.findall(r"make look(?: ON=(\S+))?(?: RUN=(?:'(.+?)'|(\S+)))?", launched.stdout)
        shown = {}
        for place, quoted, plain in offered:
            words = answer(home, [word for word in (place, *(quoted or plain).split()) if word])
            if isinstance(words, list):
                done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
                shown[quoted or plain] = done.stdout
        assert shown["gobgp neighbor"].count("Establ") == 2
        assert shown["ip route"].count("proto 17") == 2
        assert "KUBE-ROUTER-FORWARD" in shown["iptables -S"]
        assert "kube-router version" in shown["log"]
        if netns.have("ip_vs"):
            assert "10.96.0.20:80" in shown["ipvsadm -Ln"]
        assert len(offered) == 9
    finally:
        assert kept.end(demo)
    assert list(tmp_path.iterdir()) == []
    assert not home.exists()
    assert netns.names(f"{netns.PREFIX}{demo.keeper.pid}x") == []
    assert home.name not in subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True).stdout


def test_a_demo_is_not_left_before_all_that_it_says_has_arrived(tmp_path: Path) -> None:
    """The status of one in a guest is there at once, its words may take a while."""
    keeper = f"""
import sys, time
from pathlib import Path
from tests.lab import kept
with kept.keeping(Path({str(tmp_path)!r})) as home:
    (home / "status").write_text("0")
    time.sleep(0.5)
    print("make clean", kept.CLOSING, flush=True)
    time.sleep(60)
"""
    code = "import sys; from pathlib import Path; from tests.lab import kept; "
    code += "sys.exit(kept.launch([sys.executable, '-c', sys.argv[2]], Path(sys.argv[1])))"
    words = [sys.executable, "-c", code, str(tmp_path), keeper]
    launched = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=50)
    (demo,) = kept.alive(tmp_path)
    os.kill(demo.keeper.pid, signal.SIGKILL)
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout == f"make clean {kept.CLOSING}\n"


def test_every_check_of_the_demo_has_its_own_title() -> None:
    assert len({check.title for check in CHECKS}) == len(CHECKS) >= 10
    assert CHECKS[0].run is routes_learnt
