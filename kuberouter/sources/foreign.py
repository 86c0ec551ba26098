"""Routes of this host that are not ours, as ForeignRoute objects: to their prefixes none of ours may be written.

Only table main counts. Link-local prefixes are left out: nothing that is learned leads there, and pods that come and go
bring and take such routes with their links.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable

from kuberouter.model.cluster import ForeignRoute
from kuberouter.model.core import ObjectRef, Prefix, is_link_local
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.network import TABLE_MAIN
from kuberouter.model.ports import Inbox
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.netlink import NetlinkSocket

PAUSE = 0.02
"""Seconds without news after which routes that may have gone are read again: they go in crowds."""
PATIENCE = 100
"""Notices after which they are read again even so."""


class ForeignRoutes:
    """What is known of them, and what was told."""

    def __init__(self, link: Callable[[int], str]) -> None:
        """`link` is the name of a link by its index."""
        self._link = link
        self._found: dict[Prefix, str] = {}
        self._told: dict[Prefix, str] = {}
        self.stale = False
        """Some may have gone: the kernel does not tell of each."""

    def read(self, reader: NetlinkSocket) -> None:
        """Read them all; the socket is a strict one."""
        routes: dict[Prefix, set[str]] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in _dump(reader, family):
                route = rt.parse_route(body)
                if _counts(route):
                    routes.setdefault(Prefix(route.address, route.length), set()).add(self._text(route))
        self._found = {prefix: "; ".join(sorted(texts)) for prefix, texts in routes.items()}
        self.stale = False

    def take(self, kind: int, body: bytes) -> None:
        """Take in a notice of a route."""
        if not rt.is_foreign_route(body):
            return
        route = rt.parse_route(body)
        if not _counts(route):
            return
        prefix = Prefix(route.address, route.length)
        before = self._found.get(prefix)
        if kind == rt.RTM_NEWROUTE and before is None:
            self._found[prefix] = self._text(route)
        elif before is not None and (kind == rt.RTM_DELROUTE or before != self._text(route)):
            # It may have been one of several.
            self.stale = True

    def tell(self, inbox: Inbox) -> None:
        """Tell what is new."""
        if self._found == self._told:
            return
        for prefix, text in self._found.items():
            if self._told.get(prefix) != text:
                inbox.put(Upserted(ForeignRoute(_ref(prefix), text)))
        for prefix in self._told.keys() - self._found.keys():
            inbox.put(Deleted(_ref(prefix)))
        self._told = dict(self._found)

    def _text(self, route: rt.RouteFacts) -> str:
        words = [] if route.kind == rt.RTN_UNICAST else [rt.KINDS.get(route.kind, f"type {route.kind}")]
        for gateway, index in route.hops:
            words += [f"via {ipaddress.ip_address(gateway)}"] if gateway else []
            words += [f"dev {self._link(index) or index}"] if index else []
        return " ".join((*words, f"proto {rt.PROTOCOLS.get(route.protocol, str(route.protocol))}"))


def _dump(reader: NetlinkSocket, family: int) -> Iterable[bytes]:
    try:
        return reader.dump(rt.RTM_GETROUTE, rt.route_dump(family, table=TABLE_MAIN), keep=rt.is_foreign_route)
    except OSError as error:
        # The table comes with its first route.
        if error.errno == errno.ENOENT:
            return ()
        raise


def _counts(route: rt.RouteFacts) -> bool:
    return route.table == TABLE_MAIN and not is_link_local(route.address)


def _ref(prefix: Prefix) -> ObjectRef:
    return ObjectRef("ForeignRoute", "", str(prefix))
