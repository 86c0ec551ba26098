"""What the process tells of itself to root on this node: stacks of threads, memory, where time goes.

A unix socket of mode 0600; a client sends a line with what it asks for and gets text. `kube-router debug` is one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

VERBS = ("threads", "memory", "profile")
WINDOW = 5
LONGEST_WINDOW = 300
"""Seconds for which memory or time is watched when nothing is asked for, and at most."""
SAMPLE = 0.01
"""Seconds between looks at what every thread does."""
MOST_LINES = 40
PATIENCE = 5.0
"""Seconds that a client may take to say what it wants."""
MOST_CLIENTS = 4


def threads() -> str:
    """Where every thread is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, '?')} ({ident}):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


def memory(seconds: float) -> str:
    """What lies in memory: of all since the start if that is traced, else of what `seconds` brought."""
    # It costs memory itself: only who asks pays.
    import tracemalloc

    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
        time.sleep(seconds)
    snapshot = tracemalloc.take_snapshot()
    if not traced:
        tracemalloc.stop()
    found = snapshot.statistics("lineno")
    since = "the start" if traced else f"{seconds:g} s ago"
    total = sum(each.size for each in found)
    lines = [f"{total / 1024:.0f} KiB in {len(found)} places since {since}, what is still held:"]
    lines += (f"{each.size / 1024:10.1f} KiB {each.count:8} {each.traceback}" for each in found[:MOST_LINES])
    return "\n".join(lines) + "\n"


def profile(seconds: float) -> str:
    """Stacks that were seen, and how often: looks at all threads but its own, for a while."""
    seen: Counter[str] = Counter()
    own, end, looks = threading.get_ident(), time.monotonic() + seconds, 0
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    while time.monotonic() < end:
        for ident, frame in sys._current_frames().items():
            if ident != own:
                stack = ";".join(f"{each.name} ({_short(each.filename)}:{each.lineno})" for each in _summary(frame))
                seen[f"{names.get(ident, '?')};{stack}"] += 1
        looks += 1
        time.sleep(SAMPLE)
    lines = [f"{looks} looks in {seconds:g} s; stacks of each thread, outermost first, as flame graphs take them:"]
    lines += (f"{stack} {count}" for stack, count in seen.most_common())
    return "\n".join(lines) + "\n"


def _summary(frame: object) -> Iterator[traceback.FrameSummary]:
    walked = list(traceback.walk_stack(frame))  # type: ignore[arg-type]  # frames come from sys._current_frames
    yield from traceback.StackSummary.extract(iter(reversed(walked)), lookup_lines=False)


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def answer(line: str) -> str:
    """What to answer to a verb and, for windows, seconds."""
    verb, _, rest = line.strip().partition(" ")
    if verb not in VERBS or (rest and not rest.isascii()) or (rest and not rest.isdigit()):
        return f"what? {', '.join(VERBS)}; and for the latter two a number of seconds\n"
    seconds = int(rest) if rest else WINDOW
    if not 1 <= seconds <= LONGEST_WINDOW:
        return f"a window is from 1 to {LONGEST_WINDOW} seconds long\n"
    looks: dict[str, Callable[[], str]] = {
        "threads": threads,
        "memory": lambda: memory(seconds),
        "profile": lambda: profile(seconds),
    }
    return looks[verb]()


class DebugSocket:
    """Listens from the moment it is made."""

    def __init__(self, path: str) -> None:
        """Raises OSError when it cannot be made there."""
        self._path = path
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._seats = threading.BoundedSemaphore(MOST_CLIENTS)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        # Nobody may connect before the mode is right, and the process has more threads than this one: no umask.
        os.fchmod(self._socket.fileno(), 0o600)
        self._socket.bind(path)
        os.chmod(path, 0o600)
        self._socket.listen(MOST_CLIENTS)
        self._thread = threading.Thread(target=self._run, name="debug", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="debug client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if not self._seats.acquire(blocking=False):
                client.sendall(b"too many ask at a time\n")
                return
            try:
                client.settimeout(PATIENCE)
                with client.makefile("r", encoding="utf-8", errors="replace") as lines:
                    asked = lines.readline(100)
                said = answer(asked).encode(errors="replace")
                client.sendall(said)
            finally:
                self._seats.release()

    def close(self) -> None:
        """Stop listening."""
        # A listening socket that is shut down wakes up who waits for it.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def ask(path: str, words: tuple[str, ...]) -> str:
    """Have the process that listens there answer. Raises OSError when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(LONGEST_WINDOW + PATIENCE)
        client.connect(path)
        client.sendall((" ".join(words) + "\n").encode())
        with client.makefile("r", encoding="utf-8") as answered:
            return answered.read()
