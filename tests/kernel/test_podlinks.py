"""Which link leads to which pod, told of a real link into another namespace, and what a pod can make of it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouter.model.cluster import PodLink
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Deleted, Event, Synced, Upserted
from kuberouter.sources.podlinks import PodLinkSource
from tests.kernel.drive import sh
from tests.kernel.test_hostnet import Heard
from tests.support.lab import netns

pytestmark = pytest.mark.root
NAME = "veth1a2b"
GIVEN, TAKEN = bytes((10, 244, 1, 2)), bytes((10, 244, 1, 3))


@pytest.fixture
def pod(namespace: str) -> Iterator[str]:
    name = f"{namespace}-pod"
    netns.add(name)
    yield name
    netns.remove(name)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Where a container runtime would keep what it attached."""
    return tmp_path / "results"


def attach(pod: str) -> None:
    sh("ip", "link", "add", NAME, "up", "type", "veth", "peer", "name", "eth0", "netns", pod)
    netns.configure(pod, "addr add 10.244.1.2/24 dev eth0", "link set eth0 up")


def take_another_address(pod: str) -> None:
    netns.configure(pod, "addr del 10.244.1.2/24 dev eth0", "addr add 10.244.1.3/24 dev eth0")


@contextlib.contextmanager
def listening(records: Path) -> Iterator[Heard]:
    """A source in sync."""
    heard, stop = Heard(), threading.Event()
    source = PodLinkSource(records)
    thread = threading.Thread(target=source.run, args=(heard, stop))
    thread.start()
    try:
        heard.wait(lambda events: Synced(source.name) in events)
        yield heard
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def links(events: list[Event]) -> list[PodLink]:
    return [event.obj for event in events if isinstance(event, Upserted) and isinstance(event.obj, PodLink)]


def told(address: bytes, *, witnessed: bool) -> PodLink:
    return PodLink(ObjectRef("PodLink", "", NAME), (address,), witnessed=witnessed)


def test_what_comes_is_witnessed_and_keeps_what_it_was_given(pod: str, records: Path) -> None:
    with listening(records) as heard:
        attach(pod)
        heard.wait(lambda events: bool(links(events)))
        take_another_address(pod)
        sh("ip", "link", "del", NAME)
        heard.wait(lambda events: any(isinstance(event, Deleted) for event in events))
        assert links(heard.events) == [told(GIVEN, witnessed=True)]


def test_what_was_there_before_may_not_be_what_it_was_given(pod: str, records: Path) -> None:
    attach(pod)
    take_another_address(pod)
    with listening(records) as heard:
        assert links(heard.events) == [told(TAKEN, witnessed=False)]


def test_what_the_runtime_has_written_down_is_believed(pod: str, records: Path) -> None:
    attach(pod)
    take_another_address(pod)
    records.mkdir()
    (records / "a").write_text("{")
    result = {"interfaces": [{"name": NAME}, {"name": "eth0", "sandbox": "x"}], "ips": [{"address": "10.244.1.2/24"}]}
    (records / "b").write_text(json.dumps({"result": result}))
    (records / "c").write_text("[]")
    with listening(records) as heard:
        netns.configure(pod, "addr add fd44:1::9/64 dev eth0 nodad")
        sh("ip", "link", "del", NAME)
        heard.wait(lambda events: any(isinstance(event, Deleted) for event in events))
        assert links(heard.events) == [told(GIVEN, witnessed=True)]
