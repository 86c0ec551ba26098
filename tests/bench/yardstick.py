"""Our time beside a floor's: taken in turn, each time in a fresh network namespace, so that both see the same machine.

The medians are compared, as `ratio` says; beside each the best is printed too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from kuberouter.engine.loop import COLLECT_EVERY
from tests.support.lab import netns

T = TypeVar("T")
Measure = Callable[[], float]
"""Does something and returns how many seconds of that count."""


@contextlib.contextmanager
def fresh_namespace() -> Iterator[str]:
    """A network namespace of its own for this thread, with an xtables lock that nobody else takes."""
    name = f"{netns.unique_prefix()}-bench"
    netns.add(name)
    before = os.environ.get("XTABLES_LOCKFILE")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XTABLES_LOCKFILE"] = f"{directory}/lock"
        try:
            with netns.inside(name):
                yield name
        finally:
            if before is None:
                del os.environ["XTABLES_LOCKFILE"]
            else:
                os.environ["XTABLES_LOCKFILE"] = before
            netns.remove(name)


def in_fresh_namespace(measure: Measure) -> Measure:
    """The same measurement, each time in a namespace that nothing was done in before."""

    def fresh() -> float:
        with fresh_namespace():
            return measure()

    return fresh


def ratio(name: str, ours: Measure, floor: Measure, runs: int) -> float:
    """Our median time over the floor's, both measured `runs` times in turn.

    Not the best times: part of what a tool takes is waiting for the kernel, and only chance makes that short.
    """
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        for seconds, measure in ((theirs, floor), (mine, ours)):
            # Garbage of the run before is nobody's to clean up while the clock runs.
            gc.collect()
            seconds.append(measure())
    print(f"# {name}: ours {_show(mine)}, floor {_show(theirs)}", flush=True)
    return statistics.median(mine) / statistics.median(theirs)


def absolute(name: str, act: Callable[[T], None], inputs: Iterable[T], kernel: Callable[[], float]) -> float:
    """Best processor time in milliseconds that we take for one input, without the kernel's for our messages.

    Printed beside it: the kernel's share, and the time that passed. `kernel` tells the seconds that the kernel took so
    far.
    """
    passed: list[float] = []
    spent: list[float] = []
    theirs: list[float] = []
    for each in inputs:
        clock, processor, before = time.perf_counter(), time.process_time(), kernel()
        act(each)
        theirs.append(kernel() - before)
        spent.append(time.process_time() - processor - theirs[-1])
        passed.append(time.perf_counter() - clock)
    print(f"# {name}: ours {_show(spent)}, kernel's {_show(theirs)}, clock {_show(passed)}", flush=True)
    return min(spent) * 1e3


class TimedSocket:
    """A socket that tells how much processor time its sends took: the kernel does the work of netlink inside them."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.spent = 0.0

    def send(self, data: bytes) -> int:
        """Send, and count."""
        began = time.process_time()
        try:
            return self._real.send(data)
        finally:
            self.spent += time.process_time() - began

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def _show(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f} ms (best {min(seconds) * 1e3:.2f}, n={len(seconds)})"


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """The collector as the daemon sets it."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """The seconds from the start of a block to its end, or so far."""
    began = time.perf_counter()
    ended: list[float] = []

    def read() -> float:
        return (ended[0] if ended else time.perf_counter()) - began

    yield read
    ended.append(time.perf_counter())


def tool(words: Sequence[str], text: str = "") -> float:
    """Seconds that a tool takes with this input, from its start to its end; RuntimeError with what it complained of."""
    with stopwatch() as seconds:
        done = subprocess.run(list(words), input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.decode().strip()}")
    return seconds()


def output(*words: str) -> str:
    """What a tool prints."""
    return subprocess.run(list(words), capture_output=True, text=True, check=True).stdout
