"""What signals do, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

HEAD = """
import os, signal
from kuberouter.daemon.signals import Signals
signals = Signals()
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    """A process that gets signals from itself."""
    return subprocess.run([sys.executable, "-c", HEAD + body], capture_output=True, text=True, timeout=30, check=False)


def test_the_first_one_is_told_and_the_second_ends_at_once() -> None:
    done = run("""
assert not signals.wait(0) and signals.ended() == ""
os.kill(os.getpid(), signal.SIGTERM)
assert signals.wait(60) and signals.wait(60)
print(signals.ended(), flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("never")
""")
    assert (done.returncode, done.stdout, done.stderr) == (1, "SIGTERM\n", "")


def test_a_hangup_is_told_once_and_ends_nothing() -> None:
    done = run("""
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGHUP)
assert not signals.wait(60)
assert (signals.reload(), signals.reload()) == (True, False)
assert not signals.wait(0)
signals.close()
os.kill(os.getpid(), signal.SIGHUP)
""")
    assert (done.returncode, done.stderr) == (-1, "")


def test_one_that_comes_before_the_start_is_done_ends_it_well() -> None:
    done = run("""
from kuberouter.daemon.lifecycle import run
os.kill(os.getpid(), signal.SIGTERM)
# Nothing of a node is touched: there is none.
raise SystemExit(run(None, signals, None, patience=60))
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_lease_is_given_up_when_nothing_of_its_holder_is_on_its_way_any_more() -> None:
    done = run("""
import threading
from types import SimpleNamespace
from kuberouter.daemon.lifecycle import run

given_up = threading.Event()

class Late:
    def __init__(self, name):
        self.name = name

    def run(self, inbox, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        stop.wait()
        given_up.wait(0.3)
        print(self.name, flush=True)

class Lease(Late):
    def release(self):
        given_up.set()
        print("given up")

lease, balancer = Lease("lease"), Late("loadbalancer")
balancer.elector = lease
engine = SimpleNamespace(run=lambda stop: stop.wait())
inbox = SimpleNamespace(wake=lambda: None)
rest = SimpleNamespace(sources=[balancer], inbox=inbox, engine=engine, balancer=balancer, pulses={})
raise SystemExit(run(rest, signals, SimpleNamespace(changed=lambda: False)))
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "loadbalancer\ngiven up\n", "")
