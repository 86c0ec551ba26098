"""Who hears of Problems: the log. (Kubernetes Events: `daemon/events.py`.)"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from typing import TypeVar

from kuberouter.model.core import ObjectRef, Problem, Reason

T = TypeVar("T", bound=Hashable)

log = logging.getLogger(__name__)
_GRAVE = frozenset((Reason.BUG, Reason.FAILED, Reason.MISSING))


class LogSink:
    """One line when a problem appears or its text changes, one when it is gone, the object first.

    Several compilers may have the same problem with one object: it is told once, and gone with the last of them.
    """

    def __init__(self) -> None:
        self._standing: Counter[Problem] = Counter()
        self._places: Counter[tuple[ObjectRef, str]] = Counter()

    def raised(self, problem: Problem) -> None:
        """A problem appeared or changed."""
        self._standing[problem] += 1
        self._places[problem.owner, problem.field] += 1
        if self._standing[problem] == 1:
            log.log(logging.ERROR if problem.reason in _GRAVE else logging.WARNING, "%s", problem)

    def cleared(self, problem: Problem) -> None:
        """A problem is gone, or another one took its place."""
        place = (problem.owner, problem.field)
        _drop(self._standing, problem)
        _drop(self._places, place)
        if place not in self._places:
            log.info("%s: solved", problem)


def _drop(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
