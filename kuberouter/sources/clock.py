"""Time as events: every so often a table has to be read again. The safety net, not the mechanism."""

from __future__ import annotations

import random
from collections.abc import Collection

from kuberouter.model.core import Row
from kuberouter.model.events import Drifted
from kuberouter.model.ports import Inbox, Stop

JITTER = 0.1
"""Fraction by which a period varies, so that the nodes of a cluster do not audit in step."""


class ClockSource:
    """Asks for an audit of some tables every `period` seconds."""

    def __init__(self, name: str, period: float, tables: Collection[type[Row]]) -> None:
        self.name = name
        self.trouble = ""
        self.period = period
        """In seconds; a new one counts from the end of the one that runs."""
        self._tables = tuple(tables)

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Tick until `stop`."""
        while not stop.wait(self.period * random.uniform(1 - JITTER, 1 + JITTER)):
            for table in self._tables:
                inbox.put(Drifted(table))
