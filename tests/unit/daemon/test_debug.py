"""What root is told of the process on a unix socket, and what it costs nobody else."""

from __future__ import annotations

import contextlib
import re
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouter.daemon.debug import DebugSocket, answer, ask, memory, profile


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "sub" / "admin.sock")
    with contextlib.closing(DebugSocket(path)):
        yield path
    assert not Path(path).exists()


def test_threads_are_told_by_name_with_their_stacks(path: str) -> None:
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    told = ask(path, ("threads",))
    assert "MainThread (" in told
    assert re.search(r"^debug \(\d+\):\n(?: .*\n)* .*, in _run\n", told, re.MULTILINE)


def test_nonsense_is_answered(path: str) -> None:
    assert ask(path, ("nonsense",)).startswith("what? threads, memory, profile")
    assert answer("profile 0\n").startswith("a window is from 1 to ")
    assert answer("profile 301").startswith("a window is from 1 to ")
    assert answer("memory x").startswith("what?")


def test_a_stale_socket_is_replaced(path: str) -> None:
    with contextlib.closing(DebugSocket(path)):
        assert "MainThread" in ask(path, ("threads",))


def test_memory_is_traced_for_as_long_as_is_asked() -> None:
    assert "since 0 s ago, what is still held:" in memory(0)
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        held = [bytes(1000) for _ in range(1000)]
        told = memory(300)
        assert "since the start" in told
        assert Path(__file__).name in told
        assert tracemalloc.is_tracing()
        assert held
    finally:
        tracemalloc.stop()


def test_a_profile_counts_stacks(tmp_path: Path) -> None:
    assert profile(0).startswith("0 looks in 0 s")
    with contextlib.closing(DebugSocket(str(tmp_path / "s"))):
        # Who has answered once is where it waits; the first look is taken at once, however slow the machine is.
        ask(str(tmp_path / "s"), ("nonsense",))
        assert re.search(r"^debug;.*;_run \(daemon/debug\.py:\d+\).* \d+$", profile(0.05), re.MULTILINE)
