"""Source checks of the cloud that are turned off. The cloud is far away, so it is spoken to on another thread.

A row that is written is asked for, and taken for granted until the cloud says otherwise: then it is not read any more,
and its next writing fails with what the cloud said. So the engine waits for nobody, and failures are told as any other.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from kuberouter.model.core import Batch, Outcome, Unavailable
from kuberouter.model.host import NoSourceCheck, SourceCheckKey

FIRST_RETRY = 1.0
LAST_RETRY = 3600.0
"""Seconds before the cloud is asked again after a failure: doubled from the first to the last value, for every call of
every node counts against the account's limit, and what is forbidden seldom changes."""


class Cloud(Protocol):
    """What is asked of a cloud."""

    def disable_source_check(self, region: str, instance: str) -> None:
        """Have packets of an instance pass that do not carry its addresses. Raises Unavailable with the reason."""


class SourceCheckDriver:
    """Driver of `NoSourceCheck` rows; `work` is its other half, for a thread of its own."""

    def __init__(self, cloud: Cloud, clock: Callable[[], float] = time.monotonic) -> None:
        self._cloud = cloud
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[SourceCheckKey] = queue.SimpleQueue()
        self._busy: set[SourceCheckKey] = set()
        self._granted: set[SourceCheckKey] = set()
        self._refused: dict[SourceCheckKey, tuple[str, float, int]] = {}
        """What the cloud said, when it is asked again, and how often it has said so."""

    def owns(self, row: NoSourceCheck) -> bool:
        """What this process asked for. Nothing is ever turned on again: who had it off before is not known."""
        return True

    def read(self) -> Iterable[NoSourceCheck]:
        """Those that the cloud has granted or not answered yet."""
        with self._lock:
            return [NoSourceCheck(key) for key in self._granted | (self._busy - self._refused.keys())]

    def write(self, batch: Batch[NoSourceCheck]) -> Outcome:
        """Ask for what is not granted; what was refused fails until it is."""
        failed: dict[Hashable, str] = {}
        with self._lock:
            for row in batch.remove:
                self._granted.discard(row.key)
            for row in (*batch.add, *(new for _, new in batch.change)):
                why, due, _ = self._refused.get(row.key, ("", 0.0, 0))
                if why:
                    failed[row.key] = why
                if row.key not in self._granted | self._busy and due <= self._clock():
                    self._busy.add(row.key)
                    self._asked.put(row.key)
        return Outcome(failed)

    def work(self, patience: float) -> bool:
        """Ask the cloud for one thing, waiting up to `patience` seconds for one; whether there is news."""
        try:
            key = self._asked.get(timeout=patience)
        except queue.Empty:
            return False
        why = ""
        try:
            self._cloud.disable_source_check(key.region, key.instance)
        except (Unavailable, OSError) as error:
            why = str(error)
        with self._lock:
            self._busy.discard(key)
            if why:
                tries = self._refused[key][2] + 1 if key in self._refused else 1
                pause = min(LAST_RETRY, FIRST_RETRY * 2.0 ** (tries - 1))
                self._refused[key] = (why, self._clock() + pause, tries)
            else:
                self._refused.pop(key, None)
                self._granted.add(key)
        return True
