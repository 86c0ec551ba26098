"""The allocator of load balancer addresses at work: while it leads it watches Services and writes their status.

It needs no other controller and no more than Services; who does not lead asks for the lease and nothing else.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from kuberouter.daemon.supervise import supervise
from kuberouter.decode.balancer import decode_balanced
from kuberouter.drivers.kubestatus import StatusDriver
from kuberouter.engine.balancing import Allocator
from kuberouter.engine.inbox import Inbox as Queue
from kuberouter.model.balancer import BalancedService, BalancerSettings, ServiceStatus
from kuberouter.model.core import ObjectRef, Problem
from kuberouter.model.events import Accepted, Deleted, Event, Rejected, Synced, Upserted
from kuberouter.model.ports import Inbox, Sink, Stop
from kuberouter.model.pulse import Pulse
from kuberouter.sources.apiserver import RESOURCES, ApiSource
from kuberouter.sources.lease import Elector
from kuberouter.wire.kubeapi import ApiError, Forbidden, KubeApi, Unreachable

log = logging.getLogger(__name__)

NAME = "loadbalancer"
RULE = 'apiGroups: [""], resources: ["services/status"], verbs: ["patch"]'
WINDOW = 0.005
"""Seconds that a first event waits for company."""
REST = 0.5
"""Longest wait for an event in seconds."""
FIRST_DELAY = 0.5
LAST_DELAY = 30.0
"""Seconds until a write that failed is tried again: doubled from the first to the last value, with jitter."""
ATTEMPTS = 5
"""Tries to write a status that others change at the same time; then it is left for a moment."""


class Balancer:
    """A source by its shape: it runs on a thread of its own, and tells the engine nothing."""

    def __init__(
        self,
        api: KubeApi,
        settings: BalancerSettings,
        elector: Elector,
        sinks: Sequence[Sink],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is that of its pulse."""
        self.name = NAME
        self.pulse = Pulse(clock)
        """Beats with each round, be it of one that leads or of one that does not, and with each request meanwhile."""
        self.elector = elector
        self.settings = settings
        self.allocator = Allocator(settings)
        self.loaded = False
        """All Services are known."""
        self.trouble = ""
        """What keeps a status from being written; empty when nothing does."""
        self._api = api
        self._driver = StatusDriver(api)
        self._sinks = sinks
        self._told: dict[ObjectRef, tuple[Problem, ...]] = {}
        self._misread: dict[ObjectRef, tuple[Problem, ...]] = {}
        """What of a Service could not be read."""
        self._due: dict[ObjectRef, None] = {}
        self._failed: dict[ObjectRef, None] = {}
        """Services whose status could not be written."""
        self._source: ApiSource | None = None

    def state(self) -> tuple[str, bool, str]:
        """Its name, whether it is ready, and why not. One that does not lead is ready once it knows of the lease."""
        if not self.elector.leads():
            reason = self.elector.trouble or ("" if self.elector.holder else "waiting for the lease")
            return NAME, not reason, reason
        source = self._source.trouble if self._source is not None else ""
        reason = source or self.trouble or ("" if self.loaded else "waiting for services")
        return NAME, not reason, reason

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Lead whenever this process is the leader, until `stop`."""
        del inbox
        while not stop.is_set():
            if self.elector.leads():
                term = _Term(self.elector, stop)
                try:
                    self._lead(term)
                except Exception:
                    self.pulse.failed()
                    raise
                finally:
                    term.end()
            else:
                self.pulse.round()
                stop.wait(min(1.0, self.elector.times.retry / 4))

    def _lead(self, term: _Term) -> None:
        """From taking the lead to losing it. All is read anew: meanwhile another may have led."""
        self.allocator, self.loaded, self.trouble = Allocator(self.settings), False, ""
        for left in (self._due, self._failed, self._misread):
            left.clear()
        queue = Queue()
        self._source = ApiSource(self._api, RESOURCES["services"], decode_balanced)
        words = (self._source, queue, term)
        watch = threading.Thread(target=supervise, args=words, name="services to balance", daemon=True)
        watch.start()
        walk = time.monotonic() + self.settings.sync_period
        again, delay = 0.0, FIRST_DELAY
        while not term.is_set():
            for event in queue.take(min(REST, self.elector.times.retry / 4), WINDOW):
                self._take(event)
            if self.loaded and time.monotonic() >= walk:
                walk = time.monotonic() + self.settings.sync_period
                self._due |= dict.fromkeys(self.allocator.services)
            if self._failed and time.monotonic() >= again:
                self._add(self._failed)
                self._failed = {}
                again, delay = time.monotonic() + delay * random.uniform(0.5, 1.0), min(LAST_DELAY, delay * 2)
            if self.loaded and self._due:
                self._work(term)
                delay = delay if self._failed else FIRST_DELAY
            # One that failed has come round once there is nothing more to fail on.
            well = not self._due and (self.loaded or self._source.trouble)
            (self.pulse.round if well else self.pulse.progress)()
        self.loaded, self._source = False, None
        # What others will tell is not told by this one any more.
        for ref in list(self._told):
            self._tell(ref, ())

    def _take(self, event: Event) -> None:
        match event:
            case Upserted(obj=BalancedService() as service):
                known = self.allocator.services.get(service.ref)
                if known is None or not _older(service, known):
                    self._add(self.allocator.put(service))
            case Deleted(ref=ref):
                self._add(self.allocator.drop(ref))
                self._misread.pop(ref, None)
                self._tell(ref, ())
            case Rejected(ref=ref, problems=problems):
                self._misread[ref] = problems
                self._tell(ref, problems)
                self._add((ref,))
            case Accepted(ref=ref):
                self._misread.pop(ref, None)
                self._add((ref,))
            case Synced():
                self.loaded = True
                self._add(self.allocator.services)

    def _add(self, refs: Iterable[ObjectRef]) -> None:
        self._due |= dict.fromkeys(refs)

    def _work(self, term: _Term) -> None:
        """Decide on what is due, the oldest first, and write it. What fails is tried again later."""
        before, trouble = self.trouble, ""
        while self._due and not term.is_set():
            due, self._due = self.allocator.in_order(self._due), {}
            for ref in due:
                if term.is_set():
                    return
                self._failed.pop(ref, None)
                self.pulse.progress()
                if why := self._settle(ref):
                    trouble = trouble or f"{ref}: its status is not written: {why}"
                    self._failed[ref] = None
        self.trouble = trouble or (before if self._failed else "")
        if trouble and trouble != before:
            log.error("%s", trouble)

    def _settle(self, ref: ObjectRef) -> str:
        """Have a Service's status say what was decided; returns why it does not, empty if it does."""
        try:
            for _ in range(ATTEMPTS):
                decision, others = self.allocator.decide(ref, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
                self._add(other for other in others if other != ref)
                self._tell(ref, (*self._misread.get(ref, ()), *decision.problems))
                if decision.row is None or not self.elector.leads():
                    return ""
                if self._write(decision.row):
                    return ""
        except Forbidden as error:
            return f"{error}; the ClusterRole lacks the rule {{{RULE}}}"
        except ApiError as error:
            # Who is gone is told by the watch.
            return "" if error.status == 404 else str(error)
        except (Unreachable, msgspec.DecodeError) as error:
            return str(error)
        except Exception as error:
            # A mistake of ours, confined to this Service: all others are served.
            log.exception("%s: the allocator failed", ref)
            return f"the allocator failed: {type(error).__name__}: {error}"
        return "it is changed all the time"

    def _write(self, row: ServiceStatus) -> bool:
        """Write one and take in what it is then; False if it has changed meanwhile, which is taken in as well."""
        raw = self._driver.write(row)
        self.pulse.progress()
        service, _ = decode_balanced(raw if raw is not None else self._driver.read(row))
        if service is not None:
            self._add(other for other in self.allocator.put(service) if other != service.ref)
        return raw is not None

    def _tell(self, ref: ObjectRef, problems: Collection[Problem]) -> None:
        before = self._told.pop(ref, ())
        if problems:
            self._told[ref] = tuple(problems)
        for sink in self._sinks:
            for problem in problems:
                if problem not in before:
                    sink.raised(problem)
            for problem in before:
                if problem not in problems:
                    sink.cleared(problem)


def _older(service: BalancedService, known: BalancedService) -> bool:
    """Whether a watch tells of what was before our own last write."""
    old, new = known.version, service.version
    return old.isdecimal() and new.isdecimal() and int(new) < int(old)


class _Term:
    """Set once this process is to stop, or leads no more."""

    def __init__(self, elector: Elector, stop: Stop) -> None:
        self._elector = elector
        self._stop = stop
        self._term = elector.term
        self._ended = False

    def end(self) -> None:
        """Nothing of this term is to go on."""
        self._ended = True

    def is_set(self) -> bool:
        """Whether the term has ended."""
        return self._ended or self._stop.is_set() or not self._elector.leads() or self._elector.term != self._term

    def wait(self, timeout: float | None = None) -> bool:
        """Wait a while for the process to stop."""
        self._stop.wait(timeout)
        return self.is_set()
