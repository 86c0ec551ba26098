"""The queue between sources and the engine: the only lock of the project.

Events about the same object replace each other while they wait, so a storm about one object costs one compile.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from kuberouter.model.events import Accepted, Deleted, Drifted, Event, Rejected, Synced, Upserted


def _identity(event: Event) -> Hashable:
    match event:
        case Upserted(obj=obj):
            return obj.ref
        case Deleted(ref=ref):
            return ref
        case Rejected(ref=ref) | Accepted(ref=ref):
            return ("decode", ref)
        case Synced(source=source):
            return ("synced", source)
        case Drifted(table=table):
            return ("drifted", table)


class Inbox:
    """Coalescing queue of events. `put` from any thread; `take` from the engine's."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._events: dict[Hashable, Event] = {}
        self._awake = False

    def put(self, event: Event) -> None:
        """Leave an event; it replaces a waiting one about the same object."""
        identity = _identity(event)
        with self._lock:
            # A Synced must not overtake what came before it, nor be overtaken: re-inserting keeps arrival order.
            self._events.pop(identity, None)
            self._events[identity] = event
            self._lock.notify()

    def wake(self) -> None:
        """Make a waiting `take` return at once, even without events."""
        with self._lock:
            self._awake = True
            self._lock.notify()

    def take(self, timeout: float, window: float) -> list[Event]:
        """Everything that waits, in order of arrival.

        Blocks up to `timeout` seconds for a first event, then `window` seconds more so that a burst becomes one pass.
        The window is not extended by later events, so a storm cannot starve the engine.
        """
        with self._lock:
            if not self._events and not self._awake:
                self._lock.wait(timeout)
            if not self._events or self._awake:
                return self._drain()
        if window > 0:
            threading.Event().wait(window)
        with self._lock:
            return self._drain()

    def _drain(self) -> list[Event]:
        events = list(self._events.values())
        self._events.clear()
        self._awake = False
        return events

    def __len__(self) -> int:
        with self._lock:
            return len(self._events)
