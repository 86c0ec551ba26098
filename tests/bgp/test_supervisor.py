"""gobgpd under the daemon's own supervision: started, found at work, started again, and left alone at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kuberouter.daemon.gobgpd import FIRST_DELAY, Supervisor
from kuberouter.engine.inbox import Inbox
from kuberouter.model.core import Unavailable
from kuberouter.wire.gobgp import process
from kuberouter.wire.gobgp.client import Connection
from kuberouter.wire.gobgp.gobgpd import Gobgp
from tests.support.bgp import wait

pytestmark = pytest.mark.root


class Watched:
    """A supervisor at work on a thread."""

    def __init__(self, socket: Path, program: str) -> None:
        self.supervisor = Supervisor(str(socket), program=program)
        self.socket = socket
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.supervisor.run, args=(Inbox(), self._stop), daemon=True)
        self._thread.start()

    def pid(self) -> int:
        """The gobgpd that serves the socket, once there is one."""
        found: list[int] = []

        def serves() -> bool:
            if pid := process.listener(str(self.socket)):
                found.append(pid)
            return bool(found)

        wait(serves, 5, "gobgpd")
        return found[-1]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def watch(tmp_path: Path, gobgpd: str) -> Iterator[Callable[..., Watched]]:
    begun: list[Watched] = []

    def begin(program: str = gobgpd, socket: Path = tmp_path / "run" / "api") -> Watched:
        begun.append(Watched(socket, program))
        return begun[-1]

    yield begin
    for each in begun:
        each.stop()
    for each in begun:
        with contextlib.suppress(OSError):
            if pid := process.listener(str(each.socket)):
                kill(pid)


def kill(pid: int) -> None:
    """Kill a process and wait for its end, whoever its parent is."""
    watched = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, watched, os.WEXITED)
    os.close(watched)


def test_it_is_started_and_started_again_at_once(watch: Callable[..., Watched]) -> None:
    watched = watch()
    first = watched.pid()
    gobgp = Gobgp(Connection(f"unix://{watched.socket}"))
    assert gobgp.api.speaker() is None
    assert watched.socket.stat().st_mode & process.SOCKET_MASK == 0
    assert watched.supervisor.trouble == ""
    os.kill(first, signal.SIGKILL)
    wait(lambda: process.listener(str(watched.socket)) not in (None, first), 5, "another gobgpd")
    wait(lambda: answers(gobgp), 5, "answer")
    # One that ends as it is asked to is no other case: gobgpd 4 does so to change its identity.
    second = watched.pid()
    os.kill(second, signal.SIGTERM)
    wait(lambda: process.listener(str(watched.socket)) not in (None, first, second), 5, "another gobgpd")


def answers(gobgp: Gobgp) -> bool:
    try:
        return gobgp.api.speaker() is None
    except Unavailable:
        return False


FORMER = """
import sys, threading, time
from kuberouter.daemon.gobgpd import Supervisor
from kuberouter.engine.inbox import Inbox
from kuberouter.wire.gobgp import process
path, program = sys.argv[1:]
stop = threading.Event()
thread = threading.Thread(target=Supervisor(path, program=program).run, args=(Inbox(), stop))
thread.start()
while process.listener(path) is None:
    time.sleep(0.05)
stop.set()
thread.join()
"""
"""A daemon that starts gobgpd and ends."""


def test_it_outlives_the_daemon_and_the_next_one_watches_it(
    watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture, tmp_path: Path, gobgpd: str
) -> None:
    caplog.set_level(logging.INFO)
    path = str(tmp_path / "run" / "api")
    subprocess.run([sys.executable, "-c", FORMER, path, gobgpd], check=True, timeout=30)
    pid = process.listener(path)
    assert pid
    assert watch().pid() == pid
    wait(lambda: f"gobgpd {pid} is at work already, and goes on" in caplog.text, 5, "adoption")
    kill(pid)
    wait(lambda: process.listener(path) not in (None, pid), 5, "another gobgpd")
    assert "gobgpd ended; another is started" in caplog.text


def test_one_that_listens_elsewhere_goes_on_and_is_told_of(
    watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    watched = watch()
    pid = watched.pid()
    watched.stop()
    stop = threading.Event()
    other = Supervisor(str(watched.socket), ["127.0.0.1:50051"])
    thread = threading.Thread(target=other.run, args=(Inbox(), stop), daemon=True)
    thread.start()
    unix = f"--api-hosts=unix://{watched.socket}"
    said = f"gobgpd {pid} was started with {unix}; it takes its end for {unix},127.0.0.1:50051 to count"
    wait(lambda: said in caplog.text, 5, "word of the difference")
    stop.set()
    thread.join(5)
    assert process.listener(str(watched.socket)) == pid


@pytest.mark.parametrize("gobgpd", ["gobgp3"], indirect=True)
def test_what_keeps_it_from_its_work_is_told(watch: Callable[..., Watched], tmp_path: Path) -> None:
    missing = watch(program="/nowhere/gobgpd")
    wait(lambda: missing.supervisor.trouble == "/nowhere/gobgpd is not installed", 5, "word of what is missing")
    file = tmp_path / "file"
    file.write_text("somebody's")
    occupied = watch(socket=file)
    said = f"gobgpd cannot be started: {file} exists and is no socket"
    wait(lambda: occupied.supervisor.trouble == said, 5, "word of the file")
    assert file.read_text() == "somebody's"
    # It goes on trying.
    file.unlink()
    assert occupied.pid()
    assert occupied.supervisor.trouble == ""


@pytest.mark.parametrize("gobgpd", ["gobgp3"], indirect=True)
def test_one_that_dies_at_once_is_not_started_all_the_time(watch: Callable[..., Watched], tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    fake = tmp_path / "gobgpd"
    fake.write_text(f"#!/bin/sh\n[ $1 = --help ] || {{ echo >> {starts}; exit 3; }}\n")
    fake.chmod(0o755)
    began = time.monotonic()
    watched = watch(program=str(fake))
    wait(lambda: starts.exists() and len(starts.read_text()) >= 4, 10, "fourth start")
    # The second at once, the third and the fourth after a delay of which at least half is waited.
    assert time.monotonic() - began > FIRST_DELAY * (1 + 2) / 2
    assert watched.supervisor.trouble in ("", "gobgpd ended (exit status 3); another is started")
