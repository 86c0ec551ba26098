"""The gobgpd that several drivers and a source share, in whichever version of its API it speaks.

The version is found out by asking, once per process of gobgpd: another one may take its place while we run.
"""

from __future__ import annotations

import threading

from kuberouter.model.core import Prefix, Unavailable
from kuberouter.wire.gobgp.client import Api, Connection

GET_BGP = "GetBgp"
SERVICES = ("/api.GoBgpService/", "/apipb.GobgpApi/")
"""The API's service in GoBGP 4 and in GoBGP 3, in the order in which we ask for them."""


def probe(connection: Connection) -> Api:
    """The API in the version that is spoken. Raises Unavailable when none answers, or in no version of ours."""
    newest, former = SERVICES
    # A version's messages cost memory: only those that are needed are loaded.
    if connection.knows(newest + GET_BGP):
        from kuberouter.wire.gobgp.v4 import V4

        return V4(connection)
    if connection.knows(former + GET_BGP):
        from kuberouter.wire.gobgp.v3 import V3

        return V3(connection)
    raise Unavailable(
        f"what answers on {connection.target} speaks neither the API of GoBGP 4 nor that of GoBGP 3; "
        "one of the two is needed"
    )


class Gobgp:
    """A gobgpd that several drivers and a source share; safe from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._probing = threading.Lock()
        self._api: Api | None = None
        self._breaks = -1
        self.originated: set[Prefix] = set()
        """What it originates as far as we know; for the engine's thread alone."""
        self._lock = threading.Lock()
        self._starts = 0
        self._fresh = False
        self._dismissed = False

    @property
    def api(self) -> Api:
        """Its calls; after a break of the connection it is asked again which. Raises Unavailable."""
        with self._probing:
            breaks = self._connection.breaks
            if self._api is None or breaks != self._breaks:
                self._api = None
                self._api = probe(self._connection)
                self._breaks = breaks
            return self._api

    @property
    def starts(self) -> int:
        """How often we gave it an identity: whatever was read before the last time is void."""
        with self._lock:
            return self._starts

    def started(self, *, fresh: bool = False) -> None:
        """Note that it was given an identity; `fresh` says that the process had none before, so it is a new one.

        One that takes the place of a process that we ended is no news to peers: they were told good-bye.
        """
        with self._lock:
            self._starts += 1
            self._fresh = fresh and not self._dismissed
            self._dismissed = False

    def dismissed(self) -> None:
        """Note that peers are told good-bye."""
        with self._lock:
            self._dismissed = True

    def take_fresh(self) -> bool:
        """Whether it is a new process that has had no peers yet; asked once, it has."""
        with self._lock:
            fresh, self._fresh = self._fresh, False
            return fresh
