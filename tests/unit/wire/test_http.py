"""Heads of requests and whole answers."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from kuberouter.wire.http import answer, is_whole, method


def test_a_request_is_whole_with_its_empty_line() -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"
    assert is_whole(whole)
    assert not any(is_whole(whole[:n]) for n in range(len(whole)))
    assert is_whole(b"GET / HTTP/1.0\n\n"), "bare line feeds will do, as RFC 9112 section 2.2 allows"


@pytest.mark.parametrize(
    ("request_line", "name"),
    [
        (b"GET / HTTP/1.1", "GET"),
        (b"HEAD /x?y HTTP/1.0", "HEAD"),
        (b"GET /", ""),
        (b"GET / HTTP/2.0", ""),
        (b"\x16\x03\x01 / HTTP/1.1", ""),
        (b"", ""),
    ],
)
def test_only_http_1_has_a_method(request_line: bytes, name: str) -> None:
    assert method(request_line + b"\r\n\r\n") == name


def test_an_answer_says_how_long_it_is_and_that_it_is_the_last() -> None:
    words = b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    assert answer(HTTPStatus.SERVICE_UNAVAILABLE, {"A": "b"}, b"no") == words + b"no"
    assert answer(HTTPStatus.SERVICE_UNAVAILABLE, {"A": "b"}, b"no", only_head=True) == words
