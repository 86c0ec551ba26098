"""A restore tool that stays: its start and its end, which waits for RCU, cost several times what a small change does.

`iptables-nft-restore` applies what it has read at each COMMIT line. With `--verbose` it prints the comments that it
reads, so a comment behind the COMMIT comes back when the kernel has said yes. At a refusal the tool ends instead. The
kernel's notice of the new generation of rules comes less than 0.1 ms earlier, and does not tell for sure whose it is.
What is left is the kernel's: at its commit it walks over every rule that a builtin chain leads to, once per chain.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence

from kuberouter.wire.netlink import adopt_child

PATIENCE = 5.0
"""Seconds to wait for an answer; whoever takes longer hangs, or does not print comments."""
MOST_BYTES = 32_000
"""Longest script: it fits into the pipe whole, so writing never blocks. What is longer costs more than a start."""
MOST_SCRIPTS = 1000
"""After so many scripts another process takes over, lest one that forgets to free memory grows for ever."""


class KeptRestore:
    """One process, started when it is needed, in the network namespace of the thread that needs it.

    It ends by itself with its standard input, so it never outlives us, and half a script is never applied.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self.usable = True
        """False once a process did not answer though it lived: this tool cannot be kept."""

    def apply(self, script: str) -> bool:
        """Whether a script was applied. After a no nothing is known; to do it again by another way does no harm."""
        data = script.encode()
        if not self.usable or len(data) > MOST_BYTES:
            return False
        if self._process is None or self._process.poll() is not None or self._count >= MOST_SCRIPTS:
            self.close()
            if not self._start():
                return False
        self._count += 1
        assert self._process is not None
        # Said each time, for only the last children are remembered.
        adopt_child(self._process.pid)
        if self._ask(data, f"# done {self._count}\n".encode()):
            return True
        self.close()
        return False

    def _start(self) -> bool:
        self._count = 0
        try:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
        except OSError:
            return False
        return True

    def _ask(self, data: bytes, mark: bytes) -> bool:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(data + mark)
        except OSError:
            return False
        said, deadline = b"", time.monotonic() + PATIENCE
        while mark not in said:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.usable = False
                return False
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                return False
            said += part
        return True

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __del__(self) -> None:
        self.close()
