"""A look at what the engine's thread is working on, from another thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOKS = 20


def steady(look: Callable[[], T]) -> T:
    """What a look finds at something that the engine may be changing: one that was disturbed is taken again."""
    for _ in range(LOOKS):
        try:
            return look()
        except (RuntimeError, KeyError):
            # Whatever was walked through changed its size.
            continue
    return look()
