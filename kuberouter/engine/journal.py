"""What went wrong and what went well: Problems per owner, de-duplicated towards the sinks; outcomes per table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kuberouter.model.core import ObjectRef, Owner, Problem, Reason, Row
from kuberouter.model.ports import Sink

Voice = Owner | ObjectRef | type[Row]
"""Whoever reports problems: a compiler's owner, the decoder of an object, a table."""


class Journal:
    """Standing problems. A sink hears of each problem once when it appears and once when it is gone."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = tuple(sinks)
        self._standing: dict[Voice, tuple[Problem, ...]] = {}

    def report(self, voice: Voice, problems: Sequence[Problem]) -> None:
        """These, and no others, are the problems that `voice` has now."""
        old = self._standing.get(voice, ())
        if not old and not problems:
            return
        new = tuple(problems)
        for problem in new:
            if problem not in old:
                for sink in self._sinks:
                    sink.raised(problem)
        for problem in old:
            if problem not in new:
                for sink in self._sinks:
                    sink.cleared(problem)
        if new:
            self._standing[voice] = new
        else:
            self._standing.pop(voice, None)

    def bug(self, voice: Owner, error: BaseException) -> None:
        """A compiler raised: that is our mistake, confined to this owner, whose last claim stays."""
        text = f"{voice.compiler} failed: {type(error).__name__}: {error}; what was last programmed stays"
        self.report(voice, (Problem(voice.subject, "", Reason.BUG, text),))

    @property
    def standing(self) -> tuple[Problem, ...]:
        """All problems that stand now."""
        return tuple(problem for problems in self._standing.values() for problem in problems)
