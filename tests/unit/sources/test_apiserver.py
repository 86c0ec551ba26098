"""How long the apiserver source waits between its tries, and what it says meanwhile; time is a list of waits here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import pytest

from kuberouter.model.events import Event
from kuberouter.sources.apiserver import FIRST_DELAY, LAST_DELAY, RESOURCES, ApiSource
from kuberouter.wire.kubeapi import ApiError, Forbidden, Gone, KubeApi, Unauthorized, Unreachable

LIST = b'{"metadata": {"resourceVersion": "1"}, "items": []}'
BOOKMARK = b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}}'
EXPIRED = b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}'
BROKEN = b'{"type": "ERROR", "object": {"code": 500, "message": "broken"}}'


class Server(KubeApi):
    """Answers every list, and watches as told."""

    def __init__(self, answer: Callable[[], Iterator[bytes]]) -> None:
        self.lists = 0
        self.answer = answer

    def list_page(self, path: str, continue_token: str = "", query: Mapping[str, str | int] | None = None) -> bytes:
        self.lists += 1
        return LIST

    def watch(self, path: str, resource_version: str, query: Mapping[str, str | int] | None = None) -> Iterator[bytes]:
        return self.answer()


class Waits:
    """Keeps how long it was waited, without waiting; stops after so many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: list[float] = []

    def is_set(self) -> bool:
        return len(self.found) >= self.most

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.found.append(timeout)
        return self.is_set()


class Nowhere:
    def put(self, event: Event) -> None:
        """Nobody listens."""


def run(answer: Callable[[], Iterator[bytes]], turns: int = 10) -> tuple[ApiSource, Server, list[float]]:
    server, waits = Server(answer), Waits(turns)
    source = ApiSource(server, RESOURCES["namespaces"])
    source.run(Nowhere(), waits)
    return source, server, waits.found


def refuse(error: Exception) -> Callable[[], Iterator[bytes]]:
    def answer() -> Iterator[bytes]:
        raise error

    return answer


def test_silence_is_counted_from_the_last_word_be_it_a_bookmark() -> None:
    """What an informer lags behind: a list and a bookmark say something, a watch that is refused does not."""
    now = 100.0

    def pass_by() -> Iterator[bytes]:
        nonlocal now
        now += 10
        yield BOOKMARK
        now += 1

    server = Server(pass_by)
    source = ApiSource(server, RESOURCES["namespaces"], clock=lambda: now)
    now += 5
    assert source.silence() == 5, "since the start, until there is a first list"
    source.run(Nowhere(), Waits(1))
    assert (now, source.silence()) == (116, 1)
    server.answer = refuse(Unreachable("no route"))
    now += 100
    source.run(Nowhere(), Waits(3))
    assert source.silence() == 101
    server.answer = refuse(Gone(410, "too old"))
    source.run(Nowhere(), Waits(2))
    assert source.silence() == 0, "it was listed again"


def grows(waits: list[float]) -> bool:
    wanted = [min(LAST_DELAY, FIRST_DELAY * 2**n) for n in range(len(waits))]
    return all(most / 2 <= found <= most for found, most in zip(waits, wanted, strict=True))


@pytest.mark.parametrize(
    "answer",
    [
        refuse(Unreachable("no route")),
        refuse(ApiError(503, "busy")),
        refuse(Forbidden(403, "no")),
        refuse(Gone(410, "too old")),
        lambda: iter((EXPIRED,)),
        lambda: iter((BROKEN,)),
        lambda: iter((b"{",)),
        lambda: iter(()),
    ],
)
def test_watches_that_bear_nothing_are_tried_ever_more_rarely(answer: Callable[[], Iterator[bytes]]) -> None:
    _, _, waits = run(answer)
    assert grows(waits), waits


def test_a_watch_that_told_something_is_resumed_soon() -> None:
    _, server, waits = run(lambda: iter((BOOKMARK,)))
    assert all(FIRST_DELAY / 2 <= found <= FIRST_DELAY for found in waits)
    assert server.lists == 1

    def cut() -> Iterator[bytes]:
        yield BOOKMARK
        raise Unreachable("cut")

    _, _, waits = run(cut)
    assert all(FIRST_DELAY / 2 <= found <= FIRST_DELAY for found in waits)


def test_as_long_as_watches_are_refused_nothing_else_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source, server, _ = run(refuse(ApiError(503, "HTTP 503: busy")))
    assert [record.getMessage() for record in caplog.records] == ["namespaces cannot be watched: HTTP 503: busy"]
    assert (source.trouble, server.lists) == ("HTTP 503: busy", 1)


def test_an_end_of_the_trouble_is_told_once_a_watch_is_open(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(refuse(ApiError(503, "HTTP 503: busy")))
    source = ApiSource(server, RESOURCES["namespaces"])
    source.run(Nowhere(), Waits(3))
    server.answer = lambda: iter((BOOKMARK,))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        source.run(Nowhere(), Waits(3))
    assert [record.getMessage() for record in caplog.records] == ["namespaces can be watched again"]
    assert source.trouble == ""


def test_only_what_is_forbidden_is_told_as_a_rule_that_is_missing() -> None:
    source, _, _ = run(refuse(Forbidden(403, "HTTP 403: no")))
    assert 'apiGroups: [""], resources: ["namespaces"]' in source.trouble
    source, _, _ = run(refuse(Unauthorized(401, "HTTP 401: who is this?")))
    assert source.trouble == "HTTP 401: who is this?"
