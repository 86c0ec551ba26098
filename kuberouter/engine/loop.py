"""The engine's thread: inbox, planner, dataplane, again. Errors end neither the loop nor the process."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, TypeVar

from kuberouter.engine.dataplane import Dataplane, Report
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.planner import NODE_KNOWN, POD_CIDR_KNOWN, Planner
from kuberouter.model.core import ObjectRef, Owner, Problem, Reason, Row, Value
from kuberouter.model.ports import Stop
from kuberouter.model.pulse import Pulse

T = TypeVar("T")

WINDOW = 0.005
"""Seconds that a first event waits for company."""
REST = 0.05
"""Shortest sleep before a retry, so that rows which are due but held back by another table do not make it spin."""
COLLECT_EVERY = 200_000
"""Containers made, beyond those given back, before the collector looks at the young ones. Values form no cycles, so
there is little to find: at a start nearly all that is made stays, and every look goes over it for nothing."""
MOST_TOLD = 16
"""Refused rows of a table, and objects behind one row, that are told of it; beyond that it is the table's trouble."""
BEAT = 1.0
"""Longest sleep of an idle loop in seconds; also the resolution of retries."""


class ControllerState(Value, frozen=True, gc=False):
    """Readiness of one controller. `reason` says what is missing; empty when ready."""

    name: str
    ready: bool
    reason: str = ""


class Controller(Value, frozen=True, gc=False):
    """A controller as readiness sees it: its name, the sources it listens to, the tables it cannot do without."""

    name: str
    sources: frozenset[str]
    tables: tuple[type[Row], ...]


class Engine:
    """Runs planner and dataplane on one thread and keeps a snapshot of the state for other threads to read."""

    def __init__(
        self,
        inbox: Inbox,
        planner: Planner,
        dataplane: Dataplane,
        controllers: Sequence[Controller],
        *,
        clock: Callable[[], float],
        observe: Callable[[Report], None] = lambda _: None,
    ) -> None:
        self._inbox = inbox
        self._planner = planner
        self._dataplane = dataplane
        self._controllers = tuple(controllers)
        self._clock = clock
        self._observe = observe
        self._frozen = False
        self._refused: set[Owner] = set()
        """Voices for objects of which something is refused."""
        self.pulse = Pulse(clock)
        """Beats with every turn, and with every table that is read or written meanwhile."""
        dataplane.progress = self.pulse.progress
        self.turned = False
        """Whether it has come round at all, be it with an error: from then on the pulse says how it is."""
        self.states: tuple[ControllerState, ...] = tuple(
            ControllerState(c.name, False, "starting") for c in self._controllers
        )
        self._subject = ObjectRef("Engine", "", "loop")
        self._visits: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def alive(self) -> bool:
        """Whether the loop still turns."""
        return self.pulse.alive()

    def visit(self, look: Callable[[], T], patience: float) -> T:
        """What `look` finds between two turns, when claimed and written are of one moment; called by other threads.

        It looks on the engine's thread, so it must be short. Raises TimeoutError if no turn ends within `patience`
        seconds.
        """
        found: Future[T] = Future()
        self._visits.append((look, found))
        self._inbox.wake()
        try:
            return found.result(patience)
        finally:
            found.cancel()

    def _receive(self) -> None:
        for _ in range(len(self._visits)):
            look, found = self._visits.popleft()
            # Who has lost patience is gone.
            if found.set_running_or_notify_cancel():
                try:
                    found.set_result(look())
                except Exception as error:
                    found.set_exception(error)

    def run(self, stop: Stop) -> None:
        """Turn until `stop` is set. What is programmed stays as it is."""
        gc.set_threshold(COLLECT_EVERY)
        while not stop.is_set():
            try:
                self.turn()
                self._planner.journal.report(self._subject, ())
            except Exception as error:
                self._failed(f"{type(error).__name__}: {error}")
                self.turned = True
                stop.wait(BEAT)

    def _failed(self, text: str) -> None:
        """A turn raised: a bug of ours. What it claimed but did not write is found by reading every table again.

        The pulse stands still meanwhile, so that a loop which fails for ever counts as not alive.
        """
        self.pulse.failed()
        message = f"a turn failed and is tried again: {text}"
        self._planner.journal.report(self._subject, (Problem(self._subject, "", Reason.BUG, message),))
        self._dataplane.resync(tuple(self._dataplane.tables))
        self.states = tuple(ControllerState(c.name, False, message) for c in self._controllers)

    def turn(self) -> Report:
        """One turn: wait for events or for the next retry, plan, write."""
        now = self._clock()
        due = self._dataplane.next_due()
        timeout = BEAT if due is None else min(BEAT, max(REST, due - now))
        if self._planner.backlog:
            timeout = 0.0
        events = self._inbox.take(timeout, WINDOW if timeout else 0.0)
        began = self._clock()
        changes = self._planner.step(events, now=began)
        planned = self._clock() - began
        drifted, self._planner.drifted = self._planner.drifted, set()
        self._dataplane.resync(drifted)
        report = self._dataplane.converge(
            changes, synced=self._planner.synced, settled=self._planner.backlog == 0, now=self._clock()
        )
        report.planned, report.controllers = planned, self._planner.busy
        self._report_tables()
        self.pulse.round()
        self.states = tuple(self._state(c) for c in self._controllers)
        self.turned = True
        self._observe(report)
        self._receive()
        if not self._frozen and all(state.ready for state in self.states):
            # What is loaded now mostly stays: keep the collector from walking it again and again.
            gc.collect()
            gc.freeze()
            self._frozen = True
        return report

    def _report_tables(self) -> None:
        for row, table in self._dataplane.tables.items():
            subject = ObjectRef("Table", "", row.__name__)
            problems = [Problem(subject, "", Reason.MISSING, table.error)] if table.error else []
            problems += [Problem(subject, str(key), Reason.FAILED, e) for key, e in table.mirror.failures.items()]
            # What rows can do without the kernel lacks for all of them: no object is to blame, and it is told once.
            lacking = [text for key, text in table.mirror.instead.items() if self._at_large(row, key)]
            problems += [Problem(subject, "", Reason.UNSUPPORTED, text) for text in dict.fromkeys(lacking)]
            self._planner.journal.report(row, problems)
        self._report_objects()

    def _report_objects(self) -> None:
        """Who wrote an object learns from the object itself what of it is not in force, and why."""
        found: dict[Owner, dict[Problem, None]] = {}
        for row, table in self._dataplane.tables.items():
            for key, text in islice(table.mirror.failures.items(), MOST_TOLD):
                for subject in islice(self._planner.subjects_of(row, key, text), MOST_TOLD):
                    problem = Problem(subject, "", Reason.FAILED, f"its {row.__name__} is refused: {text}")
                    found.setdefault(Owner("refused", subject), {})[problem] = None
            others = ((key, text) for key, text in table.mirror.instead.items() if not self._at_large(row, key))
            for key, text in islice(others, MOST_TOLD):
                for subject in islice(self._planner.subjects_of(row, key), MOST_TOLD):
                    problem = Problem(subject, "", Reason.UNSUPPORTED, text)
                    found.setdefault(Owner("refused", subject), {})[problem] = None
        for voice in self._refused | found.keys():
            self._planner.journal.report(voice, tuple(found.get(voice, ())))
        self._refused = set(found)

    def _at_large(self, row: type[Row], key: Hashable) -> bool:
        """Whether a row says itself what it can do without, or is the node's and so stands for no object."""
        ledger = self._planner.ledgers[row]
        if getattr(ledger.winner(key), "spares", ()):
            return True
        return not any(owner.subject.namespace for owner in ledger.owners(key))

    def _state(self, controller: Controller) -> ControllerState:
        missing = self._missing(controller.sources)
        if missing:
            return ControllerState(controller.name, False, missing)
        for row in controller.tables:
            table = self._dataplane.tables[row]
            if table.error:
                return ControllerState(controller.name, False, table.error)
            if awaited := self._dataplane.held.get(row):
                return ControllerState(controller.name, False, f"{row.__name__} rows wait for {awaited}")
            if not table.read:
                return ControllerState(controller.name, False, f"{row.__name__} rows not read yet")
            desired = self._planner.ledgers[row].desired
            for key, text in table.mirror.failures.items():
                if getattr(desired.get(key), "optional", False):
                    continue
                if self._planner.controller_of(row, key) == controller.name:
                    return ControllerState(controller.name, False, f"{row.__name__} {key}: {text}")
        return ControllerState(controller.name, True)

    def _missing(self, sources: Collection[str]) -> str:
        waiting = sorted(source for source in sources if source not in self._planner.synced)
        if not waiting:
            return ""
        if {NODE_KNOWN, POD_CIDR_KNOWN}.issuperset(waiting):
            return self._planner.lacks()
        return "waiting for " + ", ".join(waiting)
