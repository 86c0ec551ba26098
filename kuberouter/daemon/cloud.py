"""The thread on which the cloud is spoken to. It may take its time, and the engine does not wait for it."""

from __future__ import annotations

from collections.abc import Callable

from kuberouter.model.core import Row
from kuberouter.model.events import Drifted
from kuberouter.model.ports import Inbox, Stop

WAIT = 0.5
"""Seconds after which a silent wait looks at `stop` again."""


class CloudWorker:
    """Does what a table's driver asks of the cloud and has the table read again when it is done. Run like a source."""

    def __init__(self, table: type[Row], work: Callable[[float], bool]) -> None:
        """`work` waits up to the given seconds for something to do; it says whether it has done anything."""
        self.name = "cloud"
        self._table = table
        self._work = work

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Work until `stop`."""
        while not stop.is_set():
            if self._work(WAIT):
                inbox.put(Drifted(self._table))
