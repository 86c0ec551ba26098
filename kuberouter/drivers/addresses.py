"""Addresses that are the node's beside those of its links: on a link of ours, or as local routes without a link."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import NamedTuple

from kuberouter.drivers.network import GONE, Rtnetlink
from kuberouter.drivers.ownership import inside
from kuberouter.drivers.served import Arrived, nowhere
from kuberouter.model.core import Batch, Outcome, Prefix
from kuberouter.model.network import (
    ROUTE_PROTOCOL,
    TABLE_LOCAL,
    Address,
    AddressKey,
    LocalRoute,
    LocalRouteKey,
)
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.netlink import NLM_F_CREATE, NLM_F_REPLACE

SETTLE_TRIES = 40
SETTLE_PAUSE = 0.005
"""How long the kernel is given to add its own local route for a new IPv6 address; it does so from a work queue."""
LOOPBACK = "lo"


class _Found(NamedTuple):
    """What the kernel holds for one address of a link: is it there, and its local routes from the best one on."""

    present: bool
    scope: int
    routes: tuple[rt.RouteFacts, ...]

    @property
    def source(self) -> bytes:
        """The preferred source of the route that wins; the kernel's own names the address itself."""
        route = self.routes[0] if self.routes else None
        return b"" if route is None or route.source == route.address else route.source

    @property
    def marked(self) -> bool:
        """Whether a route of ours is among them: by its protocol."""
        return any(route.protocol == ROUTE_PROTOCOL for route in self.routes)

    @property
    def intact(self) -> bool:
        """Whether it is all there, and the route that wins is ours."""
        return self.present and bool(self.routes) and self.routes[0].protocol == ROUTE_PROTOCOL

    @property
    def former(self) -> bool:
        """Whether the Go kube-router may have made it: a route names a source, and IPv4 addresses have link scope."""
        sourced = any(route.source not in (b"", route.address) for route in self.routes)
        four = any(len(route.address) == 4 for route in self.routes)
        return self.present and sourced and not self.marked and (not four or self.scope == rt.RT_SCOPE_LINK)


class AddressDriver(Rtnetlink):
    """Addresses on links that we make, each with its table-local route, whose protocol marks it as ours.

    What others put on our links is left alone, and so is what is in an excluded CIDR and not wanted.
    """

    def __init__(
        self,
        links: Collection[str],
        wanted: Callable[[AddressKey], bool] = lambda key: False,
        *,
        excluded: Collection[Prefix] = (),
        arrived: Arrived = nowhere,
    ) -> None:
        """`arrived` is told of addresses that the node had not, or not wholly, before."""
        super().__init__()
        self._arrived = arrived
        self._owned = frozenset(links)
        self._wanted = wanted
        self._excluded = tuple(excluded)
        self._marked: frozenset[AddressKey] = frozenset()
        self._left: frozenset[AddressKey] | None = None
        self._adopted: frozenset[AddressKey] = frozenset()

    def owns(self, row: Address) -> bool:
        """By the protocol of its local route; without it what is wanted, and what Go's one has left."""
        key = row.key
        if key.link not in self._owned:
            return False
        if self._wanted(key):
            return True
        return not inside(self._excluded, key.address) and (key in self._marked or key in self._adopted)

    def former(self) -> frozenset[bytes]:
        """Addresses without our mark that a Go kube-router had left on our links when this process began."""
        self._look()
        return frozenset(key.address for key in self._left or ())

    def everywhere(self) -> frozenset[bytes]:
        """Every address of every link of this network namespace."""
        answers = map(rt.parse_address, self.wire.dump(rt.RTM_GETADDR, rt.IFADDR.pack(0, 0, 0, 0, 0)))
        return frozenset(facts.address for facts in answers if facts is not None)

    def read(self) -> Iterable[Address]:
        """Addresses of our links; `source` is the preferred source of the local route that wins for them."""
        return [Address(key, each.source, each.intact) for key, each in self._look().items()]

    def _look(self) -> dict[AddressKey, _Found]:
        names = {index: name for name, index in self._indexes().items()}
        routes: dict[tuple[int, bytes, int], list[rt.RouteFacts]] = {}
        for route in self._local_routes(set(names)):
            routes.setdefault((route.hops[0][1], route.address, route.length), []).append(route)
        found: dict[AddressKey, _Found] = {}
        for body in self.wire.dump(rt.RTM_GETADDR, rt.IFADDR.pack(0, 0, 0, 0, 0)) if names else ():
            facts = rt.parse_address(body)
            if facts is not None and facts.ifindex in names:
                way = routes.pop((facts.ifindex, facts.address, facts.length), [])
                key = AddressKey(names[facts.ifindex], facts.address, facts.length)
                found[key] = _Found(True, facts.scope, tuple(sorted(way, key=lambda r: r.metric)))
        for (index, address, length), way in routes.items():
            # A route of ours outlives its address when somebody flushes the link.
            if any(route.protocol == ROUTE_PROTOCOL for route in way):
                found[AddressKey(names[index], address, length)] = _Found(False, 0, tuple(way))
        self._marked = frozenset(key for key, each in found.items() if each.marked)
        if self._left is None:
            self._left = self._adopted = frozenset(key for key, each in found.items() if each.former)
        # Whoever puts one of them there again has put it there for himself.
        self._adopted &= found.keys()
        return found

    def _indexes(self) -> dict[str, int]:
        return {link.name: link.ifindex for link in self.links() if link.name in self._owned}

    def _local_routes(self, indexes: set[int]) -> list[rt.RouteFacts]:
        routes: list[rt.RouteFacts] = []
        for family in (socket.AF_INET, socket.AF_INET6) if indexes else ():
            for body in self.wire.dump(rt.RTM_GETROUTE, rt.route_dump(family, table=TABLE_LOCAL)):
                route = rt.parse_route(body)
                if route.table == TABLE_LOCAL and route.kind == rt.RTN_LOCAL and route.hops[0][1] in indexes:
                    routes.append(route)
        return routes

    def write(self, batch: Batch[Address]) -> Outcome:
        """Add addresses with their local routes, mend sources in place, remove both."""
        failed: dict[Hashable, str] = {}
        indexes = self._indexes()
        known: list[Address] = []
        # An address that was whole has got rid of the kernel's route long ago.
        mended = {old.key for old, _ in batch.change if old.intact}
        for row in (*batch.add, *(new for _, new in batch.change)):
            if row.key.link in indexes:
                known.append(row)
            else:
                failed[row.key] = f"link {row.key.link} does not exist"
        replace = NLM_F_CREATE | NLM_F_REPLACE
        self.apply(
            [(row.key, (rt.RTM_NEWADDR, replace, _address(row, indexes))) for row in known], failed, (errno.EEXIST,)
        )
        there = [row for row in known if row.key not in failed]
        self.apply([(row.key, (rt.RTM_NEWROUTE, replace, _made(row, indexes))) for row in there], failed)
        self._drop_kernel_routes(
            [row for row in there if len(row.key.address) == 16 and row.key not in mended], indexes
        )
        if new := [row.key.address for row in there if row.key not in failed and row.key not in mended]:
            self._arrived(new)
        gone = [row for row in batch.remove if row.key.link in indexes]
        self.apply([(row.key, (rt.RTM_DELADDR, 0, _address(row, indexes))) for row in gone], failed, GONE)
        self.apply([(row.key, (rt.RTM_DELROUTE, 0, _any_local(row, indexes))) for row in gone], failed, GONE)
        return Outcome(failed)

    def _drop_kernel_routes(self, rows: list[Address], indexes: dict[str, int]) -> None:
        """Remove the kernel's metric-0 local routes of IPv6 addresses: they win over ours (RFC 6724 has no say here).

        They appear a moment after the address, so this tries again, within a bound; the audit finds a late one. Only
        those on our links go: a route to the same address elsewhere is somebody else's.
        """
        left = [(rt.RTM_DELROUTE, 0, _kernels(row, indexes)) for row in rows]
        pause = threading.Event()
        for _ in range(SETTLE_TRIES):
            codes = self.wire.transact(left)
            left = [message for message, code in zip(left, codes, strict=True) if code]
            if not left:
                return
            pause.wait(SETTLE_PAUSE)


def _address(row: Address, indexes: dict[str, int]) -> bytes:
    return rt.address_request(indexes[row.key.link], row.key.address, row.key.length)


def _made(row: Address, indexes: dict[str, int]) -> bytes:
    return _local(row.key.address, row.key.length, indexes[row.key.link], protocol=ROUTE_PROTOCOL, source=row.source)


def _any_local(row: Address, indexes: dict[str, int]) -> bytes:
    # Without a protocol it matches a route of any.
    return _local(row.key.address, row.key.length, indexes[row.key.link])


def _kernels(row: Address, indexes: dict[str, int]) -> bytes:
    # A deletion with metric 0 means any metric, but only the kernel's own has its protocol.
    return _local(row.key.address, row.key.length, indexes[row.key.link], protocol=rt.RTPROT_KERNEL)


def _local(address: bytes, length: int, index: int, *, protocol: int = 0, source: bytes = b"") -> bytes:
    return rt.route_request(
        TABLE_LOCAL, address, length, protocol=protocol, index=index, source=source, kind=rt.RTN_LOCAL
    )


class LocalRouteDriver(Rtnetlink):
    """Local routes on the loopback link: it never goes away, and takes no IPv6 route with it when it is set down."""

    def __init__(
        self,
        wanted: Callable[[LocalRouteKey], bool] = lambda key: False,
        *,
        excluded: Collection[Prefix] = (),
        arrived: Arrived = nowhere,
    ) -> None:
        """`arrived` is told of addresses that get a route."""
        super().__init__()
        self._arrived = arrived
        self._wanted = wanted
        self._excluded = tuple(excluded)

    def owns(self, row: LocalRoute) -> bool:
        """`read` returns those of protocol 17 only; of excluded CIDRs those that are wanted."""
        return self._wanted(row.key) or not inside(self._excluded, row.key.address)

    def read(self) -> Iterable[LocalRoute]:
        """Local routes of whole addresses, of protocol 17, on the loopback link."""
        index = self._loopback()
        rows: list[LocalRoute] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self.wire.dump(rt.RTM_GETROUTE, rt.route_dump(family, ROUTE_PROTOCOL, TABLE_LOCAL)):
                route = rt.parse_route(body)
                if (route.table, route.kind, route.protocol) != (TABLE_LOCAL, rt.RTN_LOCAL, ROUTE_PROTOCOL):
                    continue
                if route.hops[0][1] == index and route.length == len(route.address) * 8:
                    rows.append(LocalRoute(LocalRouteKey(route.address), route.source))
        return rows

    def write(self, batch: Batch[LocalRoute]) -> Outcome:
        """Replace in place and remove."""
        failed: dict[Hashable, str] = {}
        index = self._loopback()
        made = NLM_F_CREATE | NLM_F_REPLACE
        wanted = (*batch.add, *(new for _, new in batch.change))
        self.apply([(row.key, (rt.RTM_NEWROUTE, made, _on_loopback(row, index))) for row in wanted], failed)
        if new := [row.key.address for row in batch.add if row.key not in failed]:
            self._arrived(new)
        gone = [(row.key, (rt.RTM_DELROUTE, 0, _on_loopback(row, index))) for row in batch.remove]
        self.apply(gone, failed, GONE)
        return Outcome(failed)

    def _loopback(self) -> int:
        return next(link.ifindex for link in self.links() if link.name == LOOPBACK)


def _on_loopback(row: LocalRoute, index: int) -> bytes:
    address = row.key.address
    return _local(address, len(address) * 8, index, protocol=ROUTE_PROTOCOL, source=row.source)
