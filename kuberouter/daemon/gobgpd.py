"""gobgpd as a process that the daemon starts and watches, on hosts where nobody else does (`--gobgpd=spawn`).

It outlives the daemon: a restart of ours is to end no session. The next daemon finds it at work, and watches it on.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire.gobgp import process

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds after which a silent wait looks at `stop` again. The end of gobgpd is noticed at once."""
FIRST_DELAY = 0.5
LAST_DELAY = 30.0
"""Seconds before another start where one followed on the other: doubled from the first to the last value, with jitter.
"""
LONG = 30.0
"""Seconds of life after which the next start is made without a delay."""
_SHELL = ("/bin/sh", "-c", f'umask {process.SOCKET_MASK:03o}; exec "$@"', "gobgpd")


class Supervisor:
    """Has a gobgpd serve a socket: the one that does, else one that it starts. Run like a source."""

    def __init__(self, path: str, tcp: Sequence[str] = (), *, program: str = "gobgpd") -> None:
        """`path` is the socket, `tcp` what it listens on besides, as `address:port`."""
        self.name = "gobgpd"
        self.trouble = ""
        """Why there is none now; empty when there is."""
        self._path = path
        self._tcp = tuple(tcp)
        self._program = program

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Watch, and start it again whenever it ends, until `stop`; then it goes on without us."""
        del inbox
        delay = 0.0
        while not stop.is_set():
            began = time.monotonic()
            trouble = self._once(stop)
            if stop.is_set():
                return
            if trouble != self.trouble:
                log.error("%s", trouble)
                self.trouble = trouble
            if time.monotonic() - began > LONG:
                delay = 0.0
            stop.wait(delay * random.uniform(0.5, 1.0))
            delay = min(LAST_DELAY, max(FIRST_DELAY, delay * 2))

    def _once(self, stop: Stop) -> str:
        """From the start or adoption of one to its end; says how that came. Empty after `stop`."""
        try:
            pid = process.listener(self._path)
            if pid is None:
                process.clear(self._path)
                pid = self._start()
                log.info("gobgpd %d is started", pid)
            elif pid == process.UNSEEN:
                return f"the gobgpd that serves {self._path} cannot be seen from here, so it is not watched"
            else:
                self._adopt(pid)
            watched = os.pidfd_open(pid)
        except FileNotFoundError:
            return f"{self._program} is not installed"
        except ProcessLookupError:
            return "gobgpd ended"
        except (OSError, process.Occupied) as error:
            return f"gobgpd cannot be started: {error}"
        self.trouble = ""
        try:
            return self._watch(watched, stop)
        finally:
            os.close(watched)

    def _start(self) -> int:
        words = process.command(self._program, self._path, self._tcp)
        # A session of its own, so that what ends the daemon from a terminal does not end gobgpd as well. What it says
        # goes where our own log goes.
        null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        reset = (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT)
        return os.posix_spawn(
            _SHELL[0], (*_SHELL, *words), os.environ, file_actions=[null], setsid=True, setsigmask=(), setsigdef=reset
        )

    def _adopt(self, pid: int) -> None:
        log.info("gobgpd %d is at work already, and goes on", pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        hosts = [word for word in words if word.startswith("--api-hosts=")]
        if hosts and hosts != [wanted := process.hosts(self._path, self._tcp)]:
            log.warning("gobgpd %d was started with %s; it takes its end for %s to count", pid, hosts[0], wanted)

    def _watch(self, watched: int, stop: Stop) -> str:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        while not poll.poll(TICK * 1000):
            if stop.is_set():
                return ""
        try:
            end = os.waitid(os.P_PIDFD, watched, os.WEXITED)
        except ChildProcessError:
            # Another daemon started it, so nobody tells us how.
            return "gobgpd ended; another is started"
        assert end is not None
        how = f"exit status {end.si_status}"
        if end.si_code != os.CLD_EXITED:
            how = f"signal {signal.Signals(end.si_status).name}"
        return f"gobgpd ended ({how}); another is started"
