"""Who hears of Problems: the log, for now."""

from __future__ import annotations

import logging

from kuberouter.model.core import Problem, Reason

log = logging.getLogger(__name__)


class LogSink:
    """One line when a problem appears, one when it is gone; the journal has removed repetitions."""

    def raised(self, problem: Problem) -> None:
        """A problem appeared or changed."""
        level = logging.ERROR if problem.reason in (Reason.BUG, Reason.FAILED, Reason.MISSING) else logging.WARNING
        log.log(level, "%s", problem)

    def cleared(self, problem: Problem) -> None:
        """A problem is gone."""
        log.info("solved: %s", problem)
