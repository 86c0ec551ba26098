"""The inbox coalesces per object, keeps order, and never starves its reader."""

from __future__ import annotations

import threading
import time

from kuberouter.engine.inbox import Inbox
from kuberouter.model.cluster import Namespace
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Deleted, Drifted, Synced, Upserted
from kuberouter.model.network import Route


def namespace(name: str, value: str) -> Namespace:
    return Namespace(ObjectRef("Namespace", "", name), (("v", value),))


def test_later_events_about_an_object_replace_earlier_ones() -> None:
    """W29: a storm about one object is one piece of work."""
    inbox = Inbox()
    inbox.put(Upserted(namespace("a", "1")))
    inbox.put(Upserted(namespace("b", "1")))
    inbox.put(Upserted(namespace("a", "2")))
    inbox.put(Synced("namespaces"))
    inbox.put(Deleted(ObjectRef("Namespace", "", "b")))
    assert len(inbox) == 3
    assert inbox.take(0.0, 0.0) == [
        Upserted(namespace("a", "2")),
        Synced("namespaces"),
        Deleted(ObjectRef("Namespace", "", "b")),
    ]
    assert inbox.take(0.0, 0.0) == []


def test_take_returns_when_something_arrives_and_gathers_a_burst() -> None:
    inbox = Inbox()
    go = threading.Event()

    def writer() -> None:
        go.wait(5)
        for n in range(50):
            inbox.put(Upserted(namespace(f"n{n}", "1")))

    thread = threading.Thread(target=writer)
    thread.start()
    go.set()
    got = inbox.take(5.0, 0.2)
    thread.join()
    assert len(got) == 50


def test_wake_ends_a_wait_without_events() -> None:
    inbox = Inbox()
    threading.Timer(0.05, inbox.wake).start()
    started = time.monotonic()
    assert inbox.take(10.0, 0.0) == []
    assert time.monotonic() - started < 5.0


def test_drift_of_one_table_is_one_event() -> None:
    inbox = Inbox()
    inbox.put(Drifted(Route))
    inbox.put(Drifted(Route))
    assert inbox.take(0.0, 0.0) == [Drifted(Route)]
