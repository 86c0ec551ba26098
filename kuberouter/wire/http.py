"""As much of HTTP/1.1 (RFC 9112) as a health check takes: is a request whole, and the bytes of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

LONGEST_HEAD = 8192
"""Bytes; whoever sends more before the empty line is no health check."""


def is_whole(received: bytes) -> bool:
    """Whether the head of a request has arrived; nothing is asked about its body."""
    return b"\r\n\r\n" in received or b"\n\n" in received


def method(received: bytes) -> str:
    """The method of a request, or nothing if this is no request of HTTP/1."""
    words = received.split(b"\n", 1)[0].strip().split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[0].isalpha():
        return ""
    return words[0].decode()


def answer(status: HTTPStatus, headers: Mapping[str, str], body: bytes, *, only_head: bool = False) -> bytes:
    """An answer after which the connection ends; a HEAD request gets everything but the body."""
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += (f"{name}: {value}" for name, value in headers.items())
    lines += (f"Content-Length: {len(body)}", "Connection: close", "", "")
    return "\r\n".join(lines).encode() + (b"" if only_head else body)
