"""Messages of gobgpd to learned routes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import cast

from kuberouter.model.bgp import Speaker, SpeakerKey
from kuberouter.model.cluster import LearnedRoute
from kuberouter.model.core import Prefix, Unavailable
from kuberouter.model.events import Deleted, Event, Upserted
from kuberouter.sources.learned import LearnedSource
from kuberouter.wire.gobgp.client import BestPath, Sessions
from kuberouter.wire.gobgp.gobgpd import Gobgp

ONE, TWO = (ip_address(text).packed for text in ("192.0.2.1", "192.0.2.2"))
SPEAKER = Speaker(SpeakerKey(), 64512, ONE)


def prefix(number: int) -> Prefix:
    return Prefix(bytes((10, number, 0, 0)), 16)


class Telling:
    """A gobgpd that tells a few messages and is gone."""

    def __init__(self, *messages: Sequence[BestPath]) -> None:
        self._messages = messages
        self.starts = 0
        self.api = self

    def speaker(self) -> Speaker:
        return SPEAKER

    def sessions(self) -> Sessions:
        return Sessions(1, 1)

    def watch(self) -> Stream:
        return Stream(self._messages)


class Stream:
    """The messages of a watch, and its end."""

    def __init__(self, messages: Sequence[Sequence[BestPath]]) -> None:
        self._messages = messages

    def __iter__(self) -> Iterator[Sequence[BestPath]]:
        yield from self._messages
        raise Unavailable("gone")

    def cancel(self) -> None:
        """There is nothing to end."""


class Heard:
    """An inbox that knows what is learned."""

    def __init__(self) -> None:
        self.known: dict[Prefix, tuple[bytes, ...]] = {}

    def put(self, event: Event) -> None:
        if isinstance(event, Upserted) and isinstance(event.obj, LearnedRoute):
            self.known[event.obj.prefix] = event.obj.next_hops
        elif isinstance(event, Deleted):
            gone = [known for known in self.known if event.ref.name.startswith(f"{ip_address(known.address)}/")]
            for each in gone:
                del self.known[each]


def told(*messages: Sequence[BestPath]) -> dict[Prefix, tuple[bytes, ...]]:
    """What is known once all messages have been heard."""
    heard, stop = Heard(), threading.Event()
    source = LearnedSource(cast(Gobgp, Telling(*messages)), clock=lambda: 0.0)
    thread = threading.Thread(target=source.run, args=(heard, stop))
    thread.start()
    while source.trouble != "gone":
        assert thread.is_alive()
        stop.wait(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    return heard.known


def test_b12_routes_of_our_own_do_not_hide_those_that_come_in_the_same_message() -> None:
    """What came after a route of the node itself in one message was never heard of."""
    own = BestPath(prefix(1), ONE, True)
    assert told([own, BestPath(prefix(2), TWO, False), own, BestPath(prefix(3), TWO, False)]) == {
        prefix(2): (TWO,),
        prefix(3): (TWO,),
    }


def test_all_best_paths_of_a_message_are_the_ways_of_a_prefix() -> None:
    both = [BestPath(prefix(1), hop, False) for hop in (TWO, ONE)]
    assert told(both) == {prefix(1): (ONE, TWO)}
    assert told(both, both[:1]) == {prefix(1): (TWO,)}
    assert told(both, [BestPath(prefix(1), b"", False)]) == {}
    assert told(both, [*both, BestPath(prefix(1), ONE, True)]) == {}
