"""Work inside another network namespace, without any thread of ours being left there."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

HERE = Path("/proc/thread-self/ns/net")
CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def number(path: Path = HERE) -> int:
    """The inode of the namespace that a file stands for; equal numbers are one namespace. Raises OSError."""
    return os.stat(path).st_ino


class _Visit(threading.Thread, Generic[T]):
    def __init__(self, descriptor: int, work: Callable[[], T]) -> None:
        super().__init__(name="netns", daemon=True)
        self._descriptor = descriptor
        self._work = work
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            if _LIBC.setns(self._descriptor, CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            self.result = self._work()
        except Exception as error:
            self.error = error


def inside(path: Path, work: Callable[[], T], *, expect: int = 0) -> T:
    """Do work in the namespace that a file stands for. What it raises is raised here; OSError if there is no entry.

    A thread of its own goes there and ends there, so that no error on the way can leave one behind. `expect` is the
    number that the namespace must have: a file below /proc may stand for another process by now.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if expect and os.fstat(descriptor).st_ino != expect:
            raise FileNotFoundError(f"{path} stands for another namespace by now")
        visit = _Visit(descriptor, work)
        visit.start()
        visit.join()
    finally:
        os.close(descriptor)
    if visit.error is not None:
        raise visit.error
    return visit.result  # type: ignore[return-value]  # it is what the work returned, None if that was it
