"""This host's links and addresses as objects, and changes by others to what is ours as drift, from netlink notices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import ObjectRef, Row
from kuberouter.model.events import Deleted, Drifted, Synced, Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.network import ROUTE_PROTOCOL, Address, Link, LocalRoute, PolicyRule, Route
from kuberouter.model.ports import Inbox, Stop
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

    Only disappearances count as drift, and only those that no request of this process caused: what we write ourselves
    is never news. One thing is, whoever did it: a link of ours that appears has settings of its own.
    """

    def __init__(self, is_ours: Callable[[str], bool]) -> None:
        self.name = "interfaces"
        self.trouble = ""
        self._is_ours = is_ours
        self._links: dict[int, rt.LinkFacts] = {}
        self._addresses: dict[int, dict[bytes, int]] = {}
        self._told: dict[str, Interface] = {}

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Read everything once, then follow the notices until `stop`."""
        with NetlinkSocket(rt.NETLINK_ROUTE, groups=GROUPS) as notices, NetlinkSocket(rt.NETLINK_ROUTE) as reader:
            self._read(reader)
            self._tell(inbox)
            inbox.put(Synced(self.name))
            while not stop.is_set():
                found = notices.notices(WAIT)
                drifted: set[type[Row]]
                if found is None:
                    log.info("netlink notices were lost; reading everything again")
                    self._read(reader)
                    drifted = {*ON_LINKS, LocalRoute, PolicyRule, Sysctl}
                else:
                    drifted = {table for kind, body, ours in found for table in self._take(kind, body, ours)}
                for table in drifted:
                    inbox.put(Drifted(table))
                if found != []:
                    self._tell(inbox)

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

    def _take(self, kind: int, body: bytes, ours: bool) -> Iterable[type[Row]]:
        """Take in one notice; returns the tables that may have lost rows of ours through somebody else."""
        lost: Iterable[type[Row]] = ()
        if kind in (rt.RTM_NEWLINK, rt.RTM_DELLINK):
            link = rt.parse_link(body)
            appeared = kind == rt.RTM_NEWLINK and link.ifindex not in self._links and self._is_ours(link.name)
            lost = self._link(kind, link)
            if appeared:
                return (Sysctl,)
        elif kind in (rt.RTM_NEWADDR, rt.RTM_DELADDR):
            lost = self._address(kind, rt.parse_address(body))
        elif kind == rt.RTM_DELROUTE:
            route = rt.parse_route(body)
            if route.protocol == ROUTE_PROTOCOL:
                lost = (Address, LocalRoute) if route.kind == rt.RTN_LOCAL else (Route,)
        elif kind == rt.RTM_DELRULE:
            lost = (PolicyRule,)
        return () if ours else lost

    def _link(self, kind: int, link: rt.LinkFacts) -> Iterable[type[Row]]:
        if kind == rt.RTM_DELLINK:
            self._links.pop(link.ifindex, None)
            self._addresses.pop(link.ifindex, None)
            return ON_LINKS if self._is_ours(link.name) else ()
        before = self._links.get(link.ifindex)
        self._links[link.ifindex] = link
        went_down = before is not None and before.up and not link.up
        return ON_LINKS if went_down and self._is_ours(link.name) else ()

    def _address(self, kind: int, facts: rt.AddressFacts | None) -> Iterable[type[Row]]:
        if facts is None:
            return ()
        if kind == rt.RTM_NEWADDR:
            self._addresses.setdefault(facts.ifindex, {})[facts.address] = facts.length
            return ()
        self._addresses.get(facts.ifindex, {}).pop(facts.address, None)
        link = self._links.get(facts.ifindex)
        return (Address,) if link is not None and self._is_ours(link.name) else ()

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
