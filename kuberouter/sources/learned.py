"""What gobgpd learns from peers, as LearnedRoute objects; and its return after an absence, as drift of all BGP tables.

While gobgpd is away everything learned stays as it was: the kernel goes on forwarding. What it has not learned again
once its sessions are back, or a bound after it came back, is then told to be gone.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence

from kuberouter.model.bgp import TABLES
from kuberouter.model.cluster import LearnedRoute
from kuberouter.model.core import ObjectRef, Prefix, Unavailable
from kuberouter.model.events import ANNOTATIONS, Deleted, Drifted, Synced, Upserted
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire.gobgp.client import BestPath, Refused, Watch
from kuberouter.wire.gobgp.gobgpd import Gobgp

log = logging.getLogger(__name__)

FIRST_DELAY = 0.2
LAST_DELAY = 2.0
"""Seconds between attempts to reach gobgpd: short, for it starts in no time and is missed at once."""
TICK = 0.5
"""Seconds after which a silent wait looks at `stop` and at the sessions again."""
QUIET = 2.0
"""Seconds without news, all sessions established, after which the table is taken to be whole."""
ALONE = 5.0
"""The same where no peer is configured."""

News = Sequence[BestPath] | Exception


class LearnedSource:
    """Follows the best paths of a gobgpd that speaks, and waits for one that does not."""

    def __init__(
        self,
        gobgp: Gobgp,
        *,
        bound: float = 30.0,
        longest: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`bound` is how many seconds stale routes may outlive the return of gobgpd while sessions are missing.

        `longest`, if that is more, is the same while sessions stand whose peers have more to tell: one that restarts as
        well waits before it tells anything.
        """
        self.name = "learned"
        self.trouble = ""
        """What keeps it from its work now; empty when nothing does."""
        self.received = 0
        """Best paths that it was told of, own ones and withdrawals included."""
        self._gobgp = gobgp
        self._bound = bound
        self._longest = max(bound, longest)
        self._clock = clock
        self._told: dict[Prefix, tuple[bytes, ...]] = {}
        self._confirmed: set[Prefix] | None = None
        """Prefixes heard of since the connection; None once what was stale is swept."""
        self._synced = False
        self._opened = 0.0
        self._last_news = 0.0
        self._next_look = 0.0

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Connect, follow until the stream breaks, again, until `stop`."""
        delay = FIRST_DELAY
        while not stop.is_set():
            try:
                if self._gobgp.api.speaker() is None:
                    self._lacks(inbox, "gobgpd runs but has not been given an identity yet")
                    # Whatever this node's annotations said once, it knows nothing of that.
                    inbox.put(Synced(ANNOTATIONS))
                    # The engine is about to start it; this costs a call on a local socket each time.
                    stop.wait(FIRST_DELAY)
                    continue
                self._follow(inbox, stop)
                delay = FIRST_DELAY
            except (Unavailable, Refused) as error:
                self._lacks(inbox, str(error))
                stop.wait(delay * random.uniform(0.5, 1.0))
                delay = min(LAST_DELAY, delay * 2)

    def _lacks(self, inbox: Inbox, trouble: str) -> None:
        if trouble == self.trouble:
            return
        log.info("%s", trouble)
        self.trouble = trouble
        # Read again at once: a daemon that is away says so, a fresh one reads as empty and is told everything.
        _drifted(inbox)

    def _follow(self, inbox: Inbox, stop: Stop) -> None:
        """One connection, from the first dump to the break of the stream or the end of the process."""
        starts = self._gobgp.starts
        watch = self._gobgp.api.watch()
        news: queue.SimpleQueue[News] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(watch, news), name="learned stream", daemon=True).start()
        if self.trouble:
            log.info("gobgpd answers")
            self.trouble = ""
        _drifted(inbox)
        self._opened = self._last_news = self._clock()
        self._confirmed = set()
        try:
            while not stop.is_set():
                try:
                    found = news.get(timeout=TICK)
                except queue.Empty:
                    found = ()
                if isinstance(found, Exception):
                    raise found
                self.received += len(found)
                self._take(found, inbox)
                self._settle(inbox)
                if self._gobgp.starts != starts:
                    log.info("gobgpd was given an identity; telling it everything")
                    _drifted(inbox)
                    return
        finally:
            watch.cancel()

    def _take(self, paths: Sequence[BestPath], inbox: Inbox) -> None:
        """A message: the best paths of each of its prefixes, several where they are equally good."""
        if paths:
            self._last_news = self._clock()
        for prefix, hops in _hops(paths).items():
            if not hops:
                if self._told.pop(prefix, None) is not None:
                    inbox.put(Deleted(_ref(prefix)))
                continue
            if self._confirmed is not None:
                self._confirmed.add(prefix)
            if self._told.get(prefix) != hops:
                self._told[prefix] = hops
                inbox.put(Upserted(LearnedRoute(_ref(prefix), prefix, hops)))

    def _settle(self, inbox: Inbox) -> None:
        """Once after each connection: when the table is whole, sweep what is stale."""
        now = self._clock()
        if self._confirmed is None or now < self._next_look or not self._whole(now):
            return
        for prefix in self._told.keys() - self._confirmed:
            del self._told[prefix]
            inbox.put(Deleted(_ref(prefix)))
        self._confirmed = None
        if not self._synced:
            self._synced = True
            inbox.put(Synced(self.name))

    def _whole(self, now: float) -> bool:
        """Whether everything is learned that will be, as far as one can tell."""
        self._next_look = now + TICK
        waited = now - self._opened
        if waited >= self._longest:
            return True
        sessions = self._gobgp.api.sessions()
        if sessions.owing or waited >= self._bound:
            return not sessions.owing
        if sessions.established < sessions.configured:
            # A session that comes up still has its routes to send.
            self._last_news = now
        if not sessions.configured and self._told:
            # There were peers before: it may be that they could not be configured yet.
            return False
        return now - self._last_news >= (QUIET if sessions.configured else ALONE)


def _hops(paths: Sequence[BestPath]) -> dict[Prefix, tuple[bytes, ...]]:
    """The next hops to each prefix, sorted; none where it originates here or is gone."""
    hops: dict[Prefix, tuple[bytes, ...]] = {}
    several: dict[Prefix, list[BestPath]] = {}
    for path in paths:
        if path.prefix in hops:
            several[path.prefix] = []
        else:
            hops[path.prefix] = (path.next_hop,) if path.next_hop and not path.own else ()
    if several:
        for path in paths:
            if path.prefix in several:
                several[path.prefix].append(path)
    for prefix, best in several.items():
        own = any(path.own for path in best)
        hops[prefix] = () if own else tuple(sorted({path.next_hop for path in best if path.next_hop}))
    return hops


def _listen(watch: Watch, news: queue.SimpleQueue[News]) -> None:
    try:
        for found in watch:
            news.put(found)
    except Exception as error:
        news.put(error)
    else:
        news.put(Unavailable("gobgpd ended the stream of routes"))


def _drifted(inbox: Inbox) -> None:
    for table in TABLES:
        inbox.put(Drifted(table))


def _ref(prefix: Prefix) -> ObjectRef:
    return ObjectRef("LearnedRoute", "", str(prefix))
