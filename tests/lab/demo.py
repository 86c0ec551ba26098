"""`python -m tests.lab.demo`, or `make demo`: a three-node cluster on this machine, and what it does.

KEEP=1 leaves it up. A kernel without the modules that a node needs is replaced by a guest's, unless `--here` is given;
then the checks that this kernel cannot do are skipped by name. The exit status is 0 only if no check failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.checks import CHECKS, SHOP, Check, Shop, Wrong
from tests.lab.screen import Line, Screen, State
from tests.support.lab import Lab, netns

NEEDED = ("ip_vs", "dummy", "ipip")
BOOT_BOUND = 60.0
HOLD_BOUND = 24 * 3600.0
"""Seconds after which a kept demo goes by itself."""


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


def guide(lab: Lab) -> str:
    """How to look around in a lab that stays."""
    return f"""
The cluster stays up (namespaces {lab.prefix}-*). Look around as root, from this directory:
  python -m tests.lab.look                            the cluster: nodes, pods, services, endpoints, policies
  python -m tests.lab.look node1 ipvsadm -Ln          what the service proxy wrote
  python -m tests.lab.look node1 gobgp neighbor       BGP sessions
  python -m tests.lab.look node1 ip route             routes learnt (proto 17)
  python -m tests.lab.look node1 iptables -S          policies and forwarding
  python -m tests.lab.look shop/frontend-1 ping 10.244.3.2
  python -m tests.lab.look node1                      a shell on the node
  less {lab.home}/node1/daemon.log
Take it down:  python -m tests.lab.clean --all"""


def run(screen: Screen, keep: Path | None) -> int:
    """Boot, check, sum up; with `keep` (a file for the exit status) hold the lab until SIGTERM."""
    start = time.monotonic()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set() if keep else sys.exit(143))
    subnets = 2 if netns.have("ipip") else 1
    lab = Lab(nodes=3, subnets=subnets)
    with screen.step(f"building 3 nodes, {subnets} subnet(s), a router and a client outside"):
        lab.__enter__()
    status = 1
    try:
        shop = boot(lab, screen)
        lines = judge(shop, CHECKS, screen)
        screen.say()
        screen.say(summary(lines, time.monotonic() - start))
        failed = any(line.state is State.FAILED for line in lines)
        if failed:
            _save_dump(lab, screen)
        status = 1 if failed else 0
        if keep:
            screen.say(guide(lab))
            keep.write_text(str(status))
            ended.wait(HOLD_BOUND)
    except Exception as error:
        screen.say(f"demo: {type(error).__name__}: {error}")
        _save_dump(lab, screen)
        screen.say("demo: 0 passed, 1 failed")
    finally:
        lab.close()
    return status


def _save_dump(lab: Lab, screen: Screen) -> None:
    file = Path(tempfile.gettempdir()) / f"{lab.prefix.replace(netns.PREFIX, 'kube-router-demo-')}.txt"
    file.write_text(lab.dump())
    screen.say(f"demo: the nodes' state and logs are in {file}")


def launch_kept() -> int:
    """Run the demo in the background, show what it prints, and leave it when it holds."""
    home = Path(tempfile.mkdtemp(prefix="kube-router-demo-"))
    output, status = home / "output", home / "status"
    live = ["--live"] if sys.stdout.isatty() else []
    with output.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.demo", "--here", f"--hold={status}", *live],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with output.open() as shown:
        while child.poll() is None and not status.exists():
            sys.stdout.write(shown.read())
            sys.stdout.flush()
            time.sleep(0.05)
        sys.stdout.write(shown.read())
    return int(status.read_text()) if status.exists() else 1


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Boot a three-node cluster on this machine and try it.")
    parser.add_argument("--here", action="store_true", help="use this kernel whatever it lacks")
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if os.geteuid():
        print("demo: needs root for network namespaces", file=sys.stderr)
        return 2
    missing = [feature for feature in NEEDED if not netns.have(feature)]
    if missing and not words.here:
        print(f"This kernel lacks {', '.join(missing)}: the demo runs in a guest with Debian's kernel.", flush=True)
        from tests.vm import run_in_guest

        return run_in_guest([sys.executable, "-m", "tests.lab.demo", "--here"])
    if os.environ.get("KEEP") == "1" and not words.hold:
        return launch_kept()
    return run(Screen(sys.stdout, words.live or sys.stdout.isatty()), words.hold)


if __name__ == "__main__":
    sys.exit(main())
