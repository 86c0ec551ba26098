"""A unix socket in front of that of a server: whoever connects is left to wait for a while, as busy servers do."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path
from typing import Self

PAUSE = 0.3
"""Seconds; three times what our clients wait between two attempts to connect."""


class Late:
    """Passes on what both ends say, after the pause. Who hangs up meanwhile is counted, and gets nothing."""

    def __init__(self, path: Path, server: Path) -> None:
        self.impatient = 0
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Only this wakes a thread that waits for the next one; its ends wake those that pass on.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        threads: list[threading.Thread] = []
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._ends.append(client)
                watch = select.poll()
                watch.register(client, select.POLLRDHUP)
                if watch.poll(PAUSE * 1000):
                    self.impatient += 1
                    continue
                server = socket.socket(socket.AF_UNIX)
                self._ends.append(server)
                server.connect(str(self._server))
                for ends in ((client, server), (server, client)):
                    threads.append(threading.Thread(target=_pass_on, args=ends, daemon=True))
                    threads[-1].start()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for end in self._ends:
            end.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while said := source.recv(1 << 16):
            target.sendall(said)
