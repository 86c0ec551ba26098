"""This host's links and addresses as objects, and changes by others to what is ours as drift, from netlink notices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import ObjectRef, Row, is_link_local
from kuberouter.model.events import Deleted, Drifted, Synced, Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.network import ROUTE_PROTOCOL, Address, Link, LocalRoute, PolicyRule, Route
from kuberouter.model.ports import Inbox, Stop
from kuberouter.sources.foreign import PATIENCE, PAUSE, ForeignRoutes
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.netlink import NetlinkSocket

log = logging.getLogger(__name__)

GROUPS = (
    rt.RTNLGRP_LINK,
    rt.RTNLGRP_IPV4_IFADDR,
    rt.RTNLGRP_IPV6_IFADDR,
    rt.RTNLGRP_IPV4_ROUTE,
    rt.RTNLGRP_IPV6_ROUTE,
    rt.RTNLGRP_IPV4_RULE,
    rt.RTNLGRP_IPV6_RULE,
)
ON_LINKS: tuple[type[Row], ...] = (Link, Address, Route)
"""What goes with a link, or with its being up. The kernel does not tell of every route that it takes away then."""
WAIT = 0.5
"""Seconds after which a silent wait looks at `stop` again."""


class HostSource:
    """Watches links, addresses, routes and rules.

    Only what others do to rows of ours counts as drift: what we write ourselves is never news, as far as the kernel
    tells who did it. One thing is, whoever did it: a link of ours that appears has settings of its own.
    """

    def __init__(self, is_ours: Callable[[str], bool], *, routes: bool = False) -> None:
        """With `routes` those of others are told, too."""
        self.name = "interfaces"
        self.trouble = ""
        self._is_ours = is_ours
        self._links: dict[int, rt.LinkFacts] = {}
        self._addresses: dict[int, dict[bytes, int]] = {}
        self._told: dict[str, Interface] = {}
        self._gone: set[str] = set()
        """Links of ours that were removed a moment ago."""
        self._routes = ForeignRoutes(lambda index: self._links[index].name if index in self._links else "")
        self._follow = routes

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Read everything once, then follow the notices until `stop`."""
        with (
            NetlinkSocket(rt.NETLINK_ROUTE, groups=GROUPS) as notices,
            NetlinkSocket(rt.NETLINK_ROUTE, strict=True) as reader,
        ):
            self._read(reader)
            self._tell(inbox)
            inbox.put(Synced(self.name))
            waited = 0
            while not stop.is_set():
                found = notices.notices(PAUSE if self._stale else WAIT)
                drifted: set[type[Row]]
                if found is None:
                    log.info("netlink notices were lost; reading everything again")
                    self._read(reader)
                    drifted = {*ON_LINKS, LocalRoute, PolicyRule, Sysctl}
                else:
                    drifted = {table for kind, body, ours in found for table in self._take(kind, body, ours)}
                for table in drifted:
                    inbox.put(Drifted(table))
                if found == []:
                    self._gone.clear()
                if self._stale:
                    waited += 1
                    if found == [] or waited >= PATIENCE:
                        self._routes.read(reader)
                        waited = 0
                elif found == []:
                    continue
                self._tell(inbox)

    @property
    def _stale(self) -> bool:
        return self._follow and self._routes.stale

    def _read(self, reader: NetlinkSocket) -> None:
        self._links = {
            link.ifindex: link
            for link in map(rt.parse_link, reader.dump(rt.RTM_GETLINK, rt.IFINFO.pack(0, 0, 0, 0, 0, 0)))
        }
        self._addresses = {}
        for body in reader.dump(rt.RTM_GETADDR, rt.IFADDR.pack(0, 0, 0, 0, 0)):
            facts = rt.parse_address(body)
            if facts is not None:
                self._addresses.setdefault(facts.ifindex, {})[facts.address] = facts.length
        if self._follow:
            self._routes.read(reader)

    def _take(self, kind: int, body: bytes, ours: bool) -> Iterable[type[Row]]:
        """Take in one notice; returns the tables in which rows of ours may not be what they were."""
        if kind in (rt.RTM_NEWROUTE, rt.RTM_DELROUTE):
            # Of our own there may be thousands.
            return () if ours else self._route(kind, body)
        lost: Iterable[type[Row]] = ()
        if kind in (rt.RTM_NEWLINK, rt.RTM_DELLINK):
            link = rt.parse_link(body)
            if kind == rt.RTM_NEWLINK and link.ifindex not in self._links and self._is_ours(link.name):
                self._links[link.ifindex] = link
                return (Sysctl, *self._again(link.name))
            lost = self._link(kind, link)
        elif kind in (rt.RTM_NEWADDR, rt.RTM_DELADDR):
            lost = self._address(kind, rt.parse_address(body))
        elif kind == rt.RTM_DELRULE:
            lost = (PolicyRule,)
        return () if ours else lost

    def _again(self, name: str) -> Iterable[type[Row]]:
        """What a link of ours lacks that was made in place of another: routes go with a link, whoever removes it."""
        if name not in self._gone:
            return ()
        self._gone.discard(name)
        return ON_LINKS

    def _route(self, kind: int, body: bytes) -> Iterable[type[Row]]:
        if self._follow:
            self._routes.take(kind, body)
        if rt.is_foreign_route(body):
            return ()
        route = rt.parse_route(body)
        if route.protocol != ROUTE_PROTOCOL:
            return ()
        # It may have taken the place of another's, which is not told.
        self._routes.stale |= kind == rt.RTM_NEWROUTE
        if route.kind == rt.RTN_LOCAL:
            return (Address, LocalRoute) if kind == rt.RTM_DELROUTE else ()
        return (Route,)

    def _link(self, kind: int, link: rt.LinkFacts) -> Iterable[type[Row]]:
        before = self._links.get(link.ifindex)
        if kind == rt.RTM_DELLINK:
            self._links.pop(link.ifindex, None)
            self._routes.stale |= self._reaches(link)
            self._addresses.pop(link.ifindex, None)
            if self._is_ours(link.name):
                self._gone.add(link.name)
                return ON_LINKS
            return ()
        self._links[link.ifindex] = link
        if before is None or before == link:
            return ()
        if before.up != link.up:
            # Neither of the routes that go with a link nor of those that come back with it is every one told.
            self._routes.stale |= self._reaches(link)
        if self._is_ours(link.name):
            return ON_LINKS if before.up and not link.up else (Link,)
        return (Route,) if link.up and not before.up and self._reaches(link) else ()

    def _reaches(self, link: rt.LinkFacts) -> bool:
        """Whether routes may lead out of a link; a pod's has link-local addresses only."""
        return not all(map(is_link_local, self._addresses.get(link.ifindex, ())))

    def _address(self, kind: int, facts: rt.AddressFacts | None) -> Iterable[type[Row]]:
        if facts is None:
            return ()
        link, known = self._links.get(facts.ifindex), self._addresses.setdefault(facts.ifindex, {})
        ours = link is not None and self._is_ours(link.name)
        if kind == rt.RTM_NEWADDR:
            new = facts.address not in known
            known[facts.address] = facts.length
            # What could not be reached so far may be reachable now.
            return (Route,) if new and not ours and not is_link_local(facts.address) else ()
        known.pop(facts.address, None)
        if not known:
            del self._addresses[facts.ifindex]
        self._routes.stale |= not is_link_local(facts.address)
        return (Address,) if ours else ()

    def _tell(self, inbox: Inbox) -> None:
        now: dict[str, Interface] = {}
        for index, link in self._links.items():
            addresses = tuple(InterfaceAddress(a, n) for a, n in sorted(self._addresses.get(index, {}).items()))
            # A pod's end of a veth pair has neither name nor address that anybody asks for.
            if addresses:
                now[link.name] = Interface(ObjectRef("Interface", "", link.name), index, link.mtu, addresses)
        for name, interface in now.items():
            if self._told.get(name) != interface:
                inbox.put(Upserted(interface))
        for name in self._told.keys() - now.keys():
            inbox.put(Deleted(ObjectRef("Interface", "", name)))
        self._told = now
        if self._follow:
            self._routes.tell(inbox)
