"""Signals: SIGTERM and SIGINT end the process, the second of them at once; SIGHUP has its configuration read again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType

EXIT_AT_ONCE = 1


class Signals:
    """What was asked for, for the main thread to look at.

    A handler here takes no lock and wakes nobody but through a pipe: it may run in the middle of whatever the main
    thread does, and a lock that this thread holds would be waited for forever.
    """

    def __init__(self) -> None:
        """Install them; only the main thread may."""
        self._ending = ""
        self._reload = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on)

    def _on(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        elif self._ending:
            os._exit(EXIT_AT_ONCE)
        else:
            self._ending = signal.Signals(number).name

    def ended(self) -> str:
        """Name of the signal that ends us; empty while there was none."""
        return self._ending

    def wait(self, seconds: float) -> bool:
        """Wait until a signal comes, but not longer than this; whether it is time to end."""
        if not self._ending:
            select.select([self._read], [], [], max(0.0, seconds))
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return bool(self._ending)

    def reload(self) -> bool:
        """Whether SIGHUP came since this was asked last."""
        asked, self._reload = self._reload, False
        return asked

    def close(self) -> None:
        """Leave signals to their defaults again."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read)
        os.close(self._write)
