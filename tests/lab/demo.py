"""`python -m tests.lab.demo`, or `make demo`: a three-node cluster on this machine, and what it does.

KEEP=1 leaves it up in the background. A kernel without the modules that a node needs is replaced by a guest's, unless
`--here` is given; then the checks that this kernel cannot do are skipped by name. The exit status is 0 only if no check
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.lab import kept, look
from tests.lab.checks import BACKEND, CHECKS, SHOP, Check, Shop, Wrong
from tests.lab.screen import Line, Screen, State
from tests.support.lab import Lab, netns
from tests.vm import run_in_guest
from tests.vm.guest import Hold
from tests.vm.server import serve

NEEDED = ("ip_vs", "dummy", "ipip")
BOOT_BOUND = 60.0
HOLD_BOUND = 24 * 3600.0
"""Seconds after which a kept demo goes by itself."""
GUEST_BOUND = 1800.0
"""Seconds for a guest to boot and for the checks in it: minutes if it is emulated, many on a busy machine."""
BUILD = Path(__file__).resolve().parents[2] / "build"


def boot(lab: Lab, screen: Screen) -> Shop:
    """Start the daemons and the shop's pods in a lab that stands."""
    with screen.step(f"starting gobgpd and kube-router on {len(lab.nodes)} nodes"):
        started = time.monotonic()
        lab.start()
        lab.wait(
            lambda: lab.check_alive() and all(node.cni_ready() for node in lab.nodes), BOOT_BOUND, "CNI configurations"
        )
    with screen.step("attaching the shop's pods with the CNI plugins"):
        lab.apply((SHOP / "10-pods.yaml").read_text())
        for pod in lab.pods.values():
            pod.prober.wait_ready()
    return Shop(lab, started)


def judge(shop: Shop, checks: Sequence[Check], screen: Screen) -> list[Line]:
    """Run the checks one after the other; each has a verdict in the end."""
    lines = [Line(check.title) for check in checks]
    screen.table(lines)
    for check, line in zip(checks, lines, strict=True):
        missing = [feature for feature in check.needs if not netns.have(feature)]
        if missing:
            line.state, line.seen = State.SKIPPED, f"this kernel lacks {', '.join(missing)}"
            screen.changed(line)
            continue
        line.state = State.RUNNING
        screen.changed(line)
        try:
            seen = check.run(shop)
            line.state, line.seen, line.took = State.PASSED, seen.text, seen.took
        except Wrong as error:
            line.state, line.seen = State.FAILED, str(error)
        except Exception as error:
            # Whatever breaks in a check is that check's failure, and the next ones still run.
            line.state, line.seen = State.FAILED, f"{type(error).__name__}: {error}".split("\n")[0]
        screen.changed(line)
    return lines


def summary(lines: Sequence[Line], seconds: float) -> str:
    """The closing line."""
    count = {state: sum(line.state is state for line in lines) for state in State}
    skipped = f", {count[State.SKIPPED]} skipped" if count[State.SKIPPED] else ""
    return f"demo: {count[State.PASSED]} passed, {count[State.FAILED]} failed{skipped} in {seconds:.0f} s"


def guide(lab: Lab, shop: Shop, place: str) -> str:
    """How to look around in a lab that stays; `place` says where it is. Every line works as it stands."""
    frontend, database = shop.pod("frontend-1").key, shop.pod("database-1")
    lines = (
        ("", "nodes, pods, services, endpoints, policies"),
        ("ON=node1 RUN='ipvsadm -Ln'", "services and their endpoints in the kernel"),
        ("ON=node1 RUN='gobgp neighbor'", "BGP sessions"),
        ("ON=node1 RUN='ip route'", "routes, those learnt by BGP with proto 17"),
        ("ON=node1 RUN='iptables -S'", "policies and forwarding"),
        ("ON=node1 RUN=log", "what the daemon says"),
        (f"ON={frontend} RUN='curl -sS -m 5 telnet://{BACKEND}:80'", "from a pod: a backend answers, by its Service"),
        (f"ON={frontend} RUN='curl -sS -m 5 telnet://{database.ip}:5432'", "from a pod: refused by a policy"),
        ("ON=node1", "a shell on the node"),
    )
    width = max(len(words) for words, _ in lines)
    table = "\n".join(f"  make look {words:<{width}}  {meaning}" for words, meaning in lines)
    return f"""
The cluster stays up {place}, for {HOLD_BOUND / 3600:.0f} hours at most. From this directory:
{table}
  make clean     {"":<{width - 5}}  {kept.CLOSING}"""


def run(screen: Screen, keep: Path | None) -> int:
    """Boot, check, sum up; with `keep` (the keeper's folder) hold the lab until SIGTERM."""
    start = time.monotonic()
    subnets = 2 if netns.have("ipip") else 1
    lab = Lab(nodes=3, subnets=subnets)
    status = 1
    try:
        with screen.step(f"building 3 nodes, {subnets} subnet(s), a router and a client outside"):
            lab.__enter__()
        shop = boot(lab, screen)
        lines = judge(shop, CHECKS, screen)
        screen.say()
        screen.say(summary(lines, time.monotonic() - start))
        failed = any(line.state is State.FAILED for line in lines)
        if failed:
            _save_dump(lab, screen)
        status = 1 if failed else 0
        if keep:
            _hold(lab, shop, screen, keep, status)
    except Exception as error:
        screen.say(f"demo: {type(error).__name__}: {error}")
        _save_dump(lab, screen)
        screen.say("demo: 0 passed, 1 failed")
    finally:
        # A second signal must not interrupt the cleaning up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lab.close()
    return status


def _hold(lab: Lab, shop: Shop, screen: Screen, keep: Path, status: int) -> None:
    """Tell how to look around, then let the visitors in."""
    way = keep / "channel"
    screen.say(guide(lab, shop, "in a virtual machine with 3 GB of memory" if way.is_dir() else "on this machine"))
    (keep / "status.draft").write_text(str(status))
    (keep / "status.draft").rename(keep / "status")
    end = time.monotonic() + HOLD_BOUND
    if way.is_dir():
        serve(way, lambda words: look.answer(lab.home, words), lambda: time.monotonic() > end)
    else:
        time.sleep(HOLD_BOUND)


def _save_dump(lab: Lab, screen: Screen) -> None:
    # Not in /tmp: a guest takes its own with it.
    try:
        text = lab.dump()
    except Exception as error:
        # It is there to explain another trouble, and must not hide that.
        screen.say(f"demo: the nodes' state cannot be read: {type(error).__name__}: {error}")
        return
    descriptor, name = tempfile.mkstemp(prefix="demo-", suffix=".txt", dir=BUILD)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    screen.say(f"demo: the nodes' state and logs are in {name}")


def run_elsewhere(live: bool, keep: Path | None) -> int:
    """Have the demo run in a guest, and with `keep` be held there."""
    words = [sys.executable, "-m", "tests.lab.demo", "--here", *(["--live"] if live else [])]
    hold = None
    if keep:
        (keep / "channel").mkdir(mode=0o700)
        words.append(f"--folder={keep}")
        hold = Hold(keep / "status", HOLD_BOUND)
    return run_in_guest(words, GUEST_BOUND, {"COLUMNS": str(shutil.get_terminal_size().columns)}, hold)


def _stop(_: int, __: FrameType | None) -> None:
    raise SystemExit(143)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Boot a three-node cluster on this machine and try it.")
    parser.add_argument("--here", action="store_true", help="use this kernel whatever it lacks")
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keeper", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if os.geteuid():
        print("demo: needs root for network namespaces", file=sys.stderr)
        return 2
    BUILD.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    live = words.live or sys.stdout.isatty()
    if os.environ.get("KEEP") == "1" and not words.keeper and not words.folder:
        passed = [*(["--here"] if words.here else []), *(["--live"] if live else [])]
        return kept.launch([sys.executable, "-m", "tests.lab.demo", f"--keeper={kept.KEPT}", *passed])
    with kept.keeping(words.keeper) if words.keeper else contextlib.nullcontext(words.folder) as keep:
        missing = [feature for feature in NEEDED if not netns.have(feature)]
        if not missing or words.here:
            return run(Screen(sys.stdout, live), keep)
        print(f"This kernel lacks {', '.join(missing)}: the demo runs in a guest with Debian's kernel.", flush=True)
        return run_elsewhere(live, keep)


if __name__ == "__main__":
    sys.exit(main())
