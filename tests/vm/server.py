"""The guest's end of the channel: takes up calls, runs what they ask for, and says how it went.

See `tests.vm.channel` for the files. One thread serves all calls, each a process with pipes or a terminal of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from tests.vm.channel import BEAT, PAUSE

IDLE = 0.2
"""Seconds between two looks for new calls."""
SILENCE = 15 * BEAT
"""Seconds without a sign of life after which a caller is taken for dead, and its command is ended."""
CHUNK = 1 << 20
LIMIT = 256 << 20
"""Bytes that one command may write: they stay on the host's disk until it ends."""

Answer = Callable[[list[str]], Sequence[str] | str]
"""What a call's words stand for: a command line to run, or the answer itself. Raises Refused."""


class Refused(Exception):
    """There is no answer to these words; the text says why."""


class Session:
    """One call and its process."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._master: int | None = None
        self._sources: dict[int, BinaryIO] = {}
        """Where the command writes, and the file that gets it."""
        self._pending, self._line, self._ending = b"", b"", False
        self._heard, self._written = time.monotonic(), 0
        self._input = (folder / "input").open("rb")
        self._files = [(folder / name).open("ab", buffering=0) for name in ("errors", "output")]
        request = json.loads((folder / "request").read_text())
        try:
            argv = answer(request["words"])
            if isinstance(argv, str):
                self._say(argv, 0)
            else:
                self._start(list(argv), request["terminal"])
        except (Refused, OSError) as error:
            self._say(str(error), 1)

    def _say(self, text: str, status: int) -> None:
        """Answer without a command."""
        self._files[0 if status else 1].write(f"{text}\n".encode())
        self._finish(status)

    def _start(self, argv: list[str], terminal: list[str | int] | None) -> None:
        errors, output = self._files
        if terminal is None:
            self._child = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
            stdin, stdout, stderr = self._child.stdin, self._child.stdout, self._child.stderr
            assert stdin is not None
            assert stdout is not None
            assert stderr is not None
            os.set_blocking(stdin.fileno(), False)
            self._sources = {stdout.fileno(): output, stderr.fileno(): errors}
        else:
            name, rows, columns = terminal
            self._master, slave = pty.openpty()
            _resize(self._master, int(rows), int(columns))
            # setsid makes a session with this terminal and becomes the command: it does not fork here.
            self._child = subprocess.Popen(
                ["setsid", "--ctty", *argv],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**os.environ, "TERM": str(name)},
            )
            os.close(slave)
            self._sources = {self._master: output}
        for source in self._sources:
            os.set_blocking(source, False)

    @property
    def sources(self) -> list[int]:
        """Descriptors to wait for."""
        return list(self._sources)

    def step(self) -> bool:
        """Pass on what there is, either way; false when the call is over."""
        try:
            return self._child is not None and self._pass()
        except (OSError, ValueError):
            # A full disk or a line that is none is this call's trouble only.
            self.end()
            return False

    def _pass(self) -> bool:
        assert self._child is not None
        for line in self._lines():
            self._obey(line)
        self._feed()
        # In this order: what was written before the end is read after it.
        status = self._child.poll()
        more = self._drain()
        if time.monotonic() - self._heard > SILENCE:
            self.end()
            return False
        if status is None or more:
            return True
        self._finish(status if status >= 0 else 128 - status)
        return False

    def _lines(self) -> list[bytes]:
        *lines, self._line = (self._line + self._input.read()).split(b"\n")
        if lines:
            self._heard = time.monotonic()
        return lines

    def _obey(self, line: bytes) -> None:
        for key, value in json.loads(line).items():
            if key == "data":
                self._pending += value.encode("latin-1")
            elif key == "end":
                self._ending = True
            elif key == "signal":
                self._signal(value)
            elif key == "size" and self._master is not None:
                _resize(self._master, *value)
            elif key == "gone":
                self._heard = -SILENCE

    def _feed(self) -> None:
        """Give the command its input."""
        assert self._child is not None
        stdin = self._child.stdin
        target = self._master if self._master is not None else stdin.fileno() if stdin and not stdin.closed else None
        try:
            if self._pending and target is not None:
                self._pending = self._pending[os.write(target, self._pending) :]
        except BlockingIOError:
            return
        except OSError:
            self._pending, self._ending = b"", True
        if self._ending and not self._pending and stdin and not stdin.closed:
            with contextlib.suppress(OSError):
                stdin.close()

    def _drain(self) -> bool:
        """Take what the command has written, but not so much that others wait; whether there was anything."""
        before = self._written
        for source, sink in list(self._sources.items()):
            try:
                data = os.read(source, CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                # A terminal without a process at its end answers EIO.
                data = b""
            if not data:
                del self._sources[source]
            sink.write(data)
            self._written += len(data)
        if self._written > LIMIT and self._sources:
            self._files[0].write(f"ended: it wrote more than {LIMIT >> 20} MB\n".encode())
            self._sources = {}
            self._signal(signal.SIGKILL)
        return self._written > before and bool(self._sources)

    def _signal(self, number: int) -> None:
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    def _finish(self, status: int) -> None:
        self._close()
        draft = self.folder / "status.draft"
        draft.write_text(str(status))
        draft.rename(self.folder / "status")

    def end(self) -> None:
        """End the command of a caller who has gone, and remove the call."""
        self._signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
        self._close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close(self) -> None:
        for file in (self._input, *self._files):
            file.close()
        if self._master is not None:
            os.close(self._master)
        if self._child is not None:
            for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._sources, self._master = {}, None


def _resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def serve(channel: Path, answer: Answer, ended: Callable[[], bool]) -> None:
    """Serve calls until `ended()`; commands that run then are ended too."""
    sessions: dict[str, Session] = {}
    known: set[str] = set()
    looked = 0.0
    try:
        while not ended():
            if time.monotonic() - looked >= IDLE:
                # What has been answered is removed by its caller.
                present = {name for name in os.listdir(channel) if not name.startswith(".")}
                for name in present - known:
                    # A caller may have gone already, and taken the call with it.
                    with contextlib.suppress(OSError, ValueError):
                        sessions[name] = Session(channel / name, answer)
                known = present
                looked = time.monotonic()
            for name in [name for name, session in sessions.items() if not session.step()]:
                del sessions[name]
            sources = [source for session in sessions.values() for source in session.sources]
            if sources:
                select.select(sources, [], [], PAUSE)
            else:
                time.sleep(PAUSE if sessions else IDLE)
    finally:
        for session in sessions.values():
            session.end()
