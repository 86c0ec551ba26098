"""Running a tool: bounded in time, script on standard input, both outputs captured."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import BinaryIO

from kuberouter.model.core import Unavailable, Value
from kuberouter.wire.netlink import start_adopted

TIMEOUT = 30.0
"""Seconds after which a tool is taken to hang; a lock that somebody holds is waited for inside this time."""


Observer = Callable[[Sequence[str], str, int], None]
observers: list[Observer] = []
"""Who is told of each tool that has run: its words, what it was given on its standard input, its exit status."""


class Completed(Value, frozen=True, gc=False):
    """How a tool ended: exit status (negative: killed by that signal) and what it said."""

    status: int
    output: str
    errors: str

    @property
    def ok(self) -> bool:
        return self.status == 0


def _in_memory(script: str) -> BinaryIO:
    """A file without a name, at its beginning.

    A tool reads it as fast as it can; through a pipe it would get a few kilobytes at a time, and wait for us between.
    """
    file = os.fdopen(os.memfd_create("script"), "w+b", buffering=0)
    file.write(script.encode())
    file.seek(0)
    return file


def run(words: Sequence[str], script: str = "", *, timeout: float = TIMEOUT) -> Completed:
    """Run a tool to its end with `script` on its standard input; the environment is inherited.

    Raises Unavailable, naming the tool, when it is not installed, cannot be started, or exceeds `timeout` seconds.
    """
    try:
        # No preexec_fn and no shell, so that the child is made by vfork: cheap in a process with much memory.
        with (
            _in_memory(script) as stdin,
            start_adopted(
                lambda: subprocess.Popen(
                    list(words), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=True
                )
            ) as child,
        ):
            try:
                output, errors = child.communicate(timeout=timeout)
            finally:
                # Does nothing to one that has ended.
                child.kill()
    except FileNotFoundError:
        raise Unavailable(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{words[0]} did not end within {timeout:g} s") from None
    except OSError as error:
        raise Unavailable(f"{words[0]} cannot be run: {error.strerror}") from None
    for observe in observers:
        observe(words, script, child.returncode)
    return Completed(child.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))
