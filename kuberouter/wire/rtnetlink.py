"""Links, addresses, routes and policy rules on the wire (rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h).

Pure packing and unpacking; addresses are packed bytes, links are interface indexes.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from kuberouter.wire.netlink import ATTRIBUTE, Around, attribute, attributes, nested, text

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_SETLINK = 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE = 1, 5, 7, 8
RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE = 9, 11, 19

RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST = 1, 2, 3, 4, 5
KINDS = {6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
"""Names of types of routes that lead nowhere."""
INSIDE = frozenset((RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST))
RTPROT_KERNEL = 2
RTPROT_KUBE_ROUTER = 17
PROTOCOLS = {2: "kernel", 3: "boot", 4: "static", 9: "ra", 11: "zebra", 12: "bird", 16: "dhcp", 186: "bgp", 188: "ospf"}
"""Names of route protocols as `ip route` shows them."""
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RT_TABLE_LOCAL = 255
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_LINK_NETNSID = 1, 3, 4, 5, 10, 18, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_PROTINFO = 12
IFLA_BRPORT_MODE = 4
AF_BRIDGE = 7
IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE, IFLA_IPTUN_TTL, IFLA_IPTUN_PROTO = 2, 3, 4, 9
IFLA_IPTUN_ENCAP_TYPE, IFLA_IPTUN_ENCAP_FLAGS, IFLA_IPTUN_ENCAP_SPORT, IFLA_IPTUN_ENCAP_DPORT = 15, 16, 17, 18
TUNNEL_ENCAP_NONE, TUNNEL_ENCAP_GUE = 0, 2
TUNNELS = ("ipip", "ip6tnl")
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_TARGET_NETNSID = 1, 2, 8, 10
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 6, 7, 9, 15
FRA_SRC, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE = 2, 6, 10, 15
FRA_NARROWING = frozenset((1, 3, 12, 13, 16, 17, 19, 20, *range(22, 31)))
"""What else narrows a policy rule: to, iif, tunnel, group, mask of marks, oif, l3mdev, users, protocol, ports, DSCP."""
FIB_RULE_INVERT = 2
FR_ACT_TO_TBL = 1
IPPROTO_IPV6 = 41

IFINFO = Struct("=BBHiII")
IFADDR = Struct("=BBBBI")
RTMSG = Struct("=BBBBBBBBI")
RTNEXTHOP = Struct("=HBBi")
U32 = Struct("=I")
U16 = Struct("=H")


class LinkFacts(NamedTuple):
    """A link as the kernel tells it."""

    ifindex: int
    name: str
    up: bool
    mtu: int
    kind: str
    local: bytes
    remote: bytes
    encap_port: int = 0
    """UDP port of a tunnel in GUE, 0 of one without encapsulation, -1 of one with any other."""


def link_request(
    name: str, kind: str, mtu: int, *, local: bytes = b"", remote: bytes = b"", encap_port: int = 0, index: int = 0
) -> bytes:
    """Body of RTM_NEWLINK: make a link, or mend the one with this index, and bring it up.

    A tunnel gets its end points; an ip6tnl carries IPv6 only (RFC 2473), an ipip IPv4 only (RFC 2003). What is mended
    stays the same link, whatever changes, and so keeps its routes.
    """
    data = _tunnel(kind, local, remote, encap_port) if kind in TUNNELS else []
    parts = [IFINFO.pack(0, 0, 0, index, IFF_UP, IFF_UP)]
    if not index:
        # A name beside an index asks for a renaming, which kernels before 6.2 refuse to a link that is up.
        parts.append(attribute(IFLA_IFNAME, name.encode() + b"\0"))
    if mtu:
        parts.append(attribute(IFLA_MTU, U32.pack(mtu)))
    information = [attribute(IFLA_INFO_KIND, kind.encode())]
    if data:
        information.append(nested(IFLA_INFO_DATA, *data))
    parts.append(nested(IFLA_LINKINFO, *information))
    return b"".join(parts)


def _tunnel(kind: str, local: bytes, remote: bytes, encap_port: int) -> list[bytes]:
    data: list[bytes] = []
    if local:
        data.append(attribute(IFLA_IPTUN_LOCAL, local))
    if remote:
        data.append(attribute(IFLA_IPTUN_REMOTE, remote))
    ttl = 64 if kind == "ip6tnl" else 0
    if kind == "ip6tnl":
        data.append(attribute(IFLA_IPTUN_PROTO, bytes((IPPROTO_IPV6,))))
    if encap_port:
        # The TTL is the one that the Go kube-router gives them. Source ports are made of flows, so that they spread.
        ttl = 225
        data += (
            attribute(IFLA_IPTUN_ENCAP_FLAGS, U16.pack(0)),
            attribute(IFLA_IPTUN_ENCAP_SPORT, b"\0\0"),
            attribute(IFLA_IPTUN_ENCAP_DPORT, encap_port.to_bytes(2, "big")),
        )
    if ttl:
        data.append(attribute(IFLA_IPTUN_TTL, bytes((ttl,))))
    data.append(attribute(IFLA_IPTUN_ENCAP_TYPE, U16.pack(TUNNEL_ENCAP_GUE if encap_port else TUNNEL_ENCAP_NONE)))
    return data


def _encap_port(tunnel: Mapping[int, bytes]) -> int:
    kind = U16.unpack(tunnel.get(IFLA_IPTUN_ENCAP_TYPE, b"\0\0"))[0]
    if kind != TUNNEL_ENCAP_GUE:
        return -1 if kind else TUNNEL_ENCAP_NONE
    return int.from_bytes(tunnel.get(IFLA_IPTUN_ENCAP_DPORT, b""), "big")


def link_by_name(name: str) -> bytes:
    """Body of RTM_DELLINK and RTM_GETLINK for a link by name."""
    return IFINFO.pack(0, 0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0")


def parse_index(body: bytes) -> int:
    """The index of a link from the body of RTM_NEWLINK."""
    index: int = IFINFO.unpack_from(body)[3]
    return index


def parse_link(body: bytes) -> LinkFacts:
    """A link from the body of RTM_NEWLINK or RTM_DELLINK."""
    _, _, _, index, flags, _ = IFINFO.unpack_from(body)
    found = attributes(body, IFINFO.size)
    information = attributes(found.get(IFLA_LINKINFO, b""))
    kind = text(information.get(IFLA_INFO_KIND, b""))
    tunnel = attributes(information.get(IFLA_INFO_DATA, b"")) if kind in TUNNELS else {}
    return LinkFacts(
        index,
        text(found.get(IFLA_IFNAME, b"")),
        bool(flags & IFF_UP),
        U32.unpack(found[IFLA_MTU])[0] if IFLA_MTU in found else 0,
        kind,
        tunnel.get(IFLA_IPTUN_LOCAL, b""),
        tunnel.get(IFLA_IPTUN_REMOTE, b""),
        _encap_port(tunnel),
    )


def hairpin_request(index: int) -> bytes:
    """Body of RTM_SETLINK: the bridge port with this index sends packets back where they came from."""
    return IFINFO.pack(AF_BRIDGE, 0, 0, index, 0, 0) + nested(IFLA_PROTINFO, attribute(IFLA_BRPORT_MODE, b"\1"))


def parse_hairpin(body: bytes) -> bool | None:
    """Whether a bridge port does that, from the body of RTM_NEWLINK; None for what is no bridge port."""
    information = attributes(attributes(body, IFINFO.size).get(IFLA_LINKINFO, b""))
    if text(information.get(IFLA_INFO_SLAVE_KIND, b"")) != "bridge":
        return None
    return any(attributes(information.get(IFLA_INFO_SLAVE_DATA, b"")).get(IFLA_BRPORT_MODE, b""))


class PeerFacts(NamedTuple):
    """The other end of a link: its index, and the number of the network namespace that it is in.

    `bridged` says that our end is the port of a bridge.
    """

    ifindex: int
    nsid: int
    bridged: bool


def parse_peer(body: bytes) -> PeerFacts | None:
    """The peer of a link in another namespace, from the body of RTM_NEWLINK; None for a link without one."""
    found = attributes(body, IFINFO.size)
    if IFLA_LINK not in found or IFLA_LINK_NETNSID not in found:
        return None
    return PeerFacts(
        U32.unpack(found[IFLA_LINK])[0], U32.unpack(found[IFLA_LINK_NETNSID])[0], any(found.get(IFLA_MASTER, b""))
    )


def peer_addresses(peer: PeerFacts) -> bytes:
    """Body of an RTM_GETADDR dump of one link in another namespace, on a strict socket."""
    return IFADDR.pack(0, 0, 0, 0, peer.ifindex) + attribute(IFA_TARGET_NETNSID, U32.pack(peer.nsid))


class AddressFacts(NamedTuple):
    """An address as the kernel tells it."""

    ifindex: int
    address: bytes
    length: int
    scope: int = RT_SCOPE_UNIVERSE


def address_request(index: int, address: bytes, length: int) -> bytes:
    """Body of RTM_NEWADDR and RTM_DELADDR: scope link, no duplicate detection, no route for its prefix."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    flags = IFA_F_NOPREFIXROUTE | (IFA_F_NODAD if family == socket.AF_INET6 else 0)
    return b"".join(
        (
            IFADDR.pack(family, length, 0, RT_SCOPE_LINK if family == socket.AF_INET else 0, index),
            attribute(IFA_LOCAL, address),
            attribute(IFA_ADDRESS, address),
            attribute(IFA_FLAGS, U32.pack(flags)),
        )
    )


def parse_address(body: bytes) -> AddressFacts | None:
    """An address from the body of RTM_NEWADDR or RTM_DELADDR; None for families other than IP."""
    family, length, _, scope, index = IFADDR.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = attributes(body, IFADDR.size)
    address = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    return AddressFacts(index, address, length, scope) if address else None


class RouteFacts(NamedTuple):
    """A route as the kernel tells it; `hops` are (gateway or empty, interface index)."""

    table: int
    address: bytes
    length: int
    protocol: int
    kind: int
    metric: int
    source: bytes
    hops: tuple[tuple[bytes, int], ...]


def route_request(
    table: int,
    address: bytes,
    length: int,
    *,
    protocol: int,
    gateways: tuple[bytes, ...] = (),
    index: int = 0,
    devices: tuple[int, ...] = (),
    source: bytes = b"",
    kind: int = RTN_UNICAST,
    metric: int | None = None,
) -> bytes:
    """Body of RTM_NEWROUTE and RTM_DELROUTE. Several gateways make a multipath route of equal weights.

    So do several `devices`, by their indexes, which stand for `index` then.
    """
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    if family == socket.AF_INET6 or gateways:
        scope = RT_SCOPE_UNIVERSE
    else:
        scope = RT_SCOPE_HOST if kind == RTN_LOCAL else RT_SCOPE_LINK
    parts = [
        RTMSG.pack(family, length, 0, 0, table if table < 256 else 0, protocol, scope, kind, 0),
        attribute(RTA_DST, address),
        attribute(RTA_TABLE, U32.pack(table)),
    ]
    if metric is not None:
        parts.append(attribute(RTA_PRIORITY, U32.pack(metric)))
    if source:
        parts.append(attribute(RTA_PREFSRC, source))
    hops = [(index, attribute(RTA_GATEWAY, gateway)) for gateway in gateways] or [(each, b"") for each in devices]
    if len(hops) > 1:
        ways = (RTNEXTHOP.pack(RTNEXTHOP.size + len(hop), 0, 0, out) + hop for out, hop in hops)
        parts.append(attribute(RTA_MULTIPATH, b"".join(ways)))
    else:
        if gateways:
            parts.append(attribute(RTA_GATEWAY, gateways[0]))
        if index := index or sum(devices):
            parts.append(attribute(RTA_OIF, U32.pack(index)))
    return b"".join(parts)


@lru_cache(maxsize=256)
def around_route(table: int, length: int, protocol: int) -> Around:
    """What stands before the address and before the gateway in a `route_request` of an IPv4 route through one gateway.

    Nothing follows. Nearly all routes are such, and with this they take a fifth of the time.
    """
    short = table if table < 256 else 0
    head = RTMSG.pack(socket.AF_INET, length, 0, 0, short, protocol, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    return (
        head + ATTRIBUTE.pack(8, RTA_DST),
        attribute(RTA_TABLE, U32.pack(table)) + ATTRIBUTE.pack(8, RTA_GATEWAY),
    )


def route_dump(family: int, protocol: int = 0, table: int = 0) -> bytes:
    """Body of an RTM_GETROUTE dump; with a strict socket the kernel itself filters by protocol and table."""
    return RTMSG.pack(family, 0, 0, 0, table, protocol, 0, 0, 0)


def parse_route(body: bytes) -> RouteFacts:
    """A route from the body of RTM_NEWROUTE or RTM_DELROUTE."""
    family, length, _, _, table, protocol, _, kind, _ = RTMSG.unpack_from(body)
    found = attributes(body, RTMSG.size)
    if RTA_TABLE in found:
        table = U32.unpack(found[RTA_TABLE])[0]
    if RTA_MULTIPATH in found:
        hops = tuple(_hops(found[RTA_MULTIPATH]))
    else:
        hops = ((found.get(RTA_GATEWAY, b""), U32.unpack(found[RTA_OIF])[0] if RTA_OIF in found else 0),)
    return RouteFacts(
        table,
        found.get(RTA_DST, b"\0" * (4 if family == socket.AF_INET else 16)),
        length,
        protocol,
        kind,
        U32.unpack(found[RTA_PRIORITY])[0] if RTA_PRIORITY in found else 0,
        found.get(RTA_PREFSRC, b""),
        hops,
    )


def is_foreign_route(body: bytes) -> bool:
    """Whether a route is somebody else's that leads out of this host, or nowhere on purpose."""
    _, _, _, _, _, protocol, _, kind, _ = RTMSG.unpack_from(body)
    return protocol != RTPROT_KUBE_ROUTER and kind not in INSIDE


def _hops(payload: bytes) -> list[tuple[bytes, int]]:
    hops: list[tuple[bytes, int]] = []
    offset = 0
    while offset + RTNEXTHOP.size <= len(payload):
        length, _, _, index = RTNEXTHOP.unpack_from(payload, offset)
        if length < RTNEXTHOP.size:
            break
        gateway = b""
        if length >= RTNEXTHOP.size + ATTRIBUTE.size:
            gateway = attributes(payload, offset + RTNEXTHOP.size, offset + length).get(RTA_GATEWAY, b"")
        hops.append((gateway, index))
        offset += (length + 3) & ~3
    return hops


class RuleFacts(NamedTuple):
    """A policy rule as the kernel tells it: its source prefix, the table to look into, its priority, its mark."""

    family: int
    table: int
    source: bytes
    length: int
    priority: int
    mark: int = 0
    narrowed: bool = False
    """By something else than source and mark: we make no such rules."""


def rule_request(family: int, source: bytes, length: int, table: int, priority: int = 0, *, mark: int = 0) -> bytes:
    """Body of RTM_NEWRULE and RTM_DELRULE: from a source prefix, or with a mark, look into a table.

    Without a priority the kernel picks one for a new rule, and deletes the first rule that is at least as wide.
    """
    return b"".join(
        (
            RTMSG.pack(family, 0, length, 0, table if table < 256 else 0, 0, 0, FR_ACT_TO_TBL, 0),
            attribute(FRA_SRC, source) if length else b"",
            attribute(FRA_TABLE, U32.pack(table)),
            attribute(FRA_PRIORITY, U32.pack(priority)) if priority else b"",
            attribute(FRA_FWMARK, U32.pack(mark)) if mark else b"",
        )
    )


def parse_rule(body: bytes) -> RuleFacts:
    """A policy rule from the body of RTM_NEWRULE. A missing source is the whole family."""
    family, to, length, tos, table, _, _, _, flags = RTMSG.unpack_from(body)
    found = attributes(body, RTMSG.size)
    if FRA_TABLE in found:
        table = U32.unpack(found[FRA_TABLE])[0]
    source = found.get(FRA_SRC, b"\0" * (4 if family == socket.AF_INET else 16))
    priority = U32.unpack(found[FRA_PRIORITY])[0] if FRA_PRIORITY in found else 0
    mark = U32.unpack(found[FRA_FWMARK])[0] if FRA_FWMARK in found else 0
    narrowed = bool(to or tos or flags & FIB_RULE_INVERT or not FRA_NARROWING.isdisjoint(found))
    return RuleFacts(family, table, source, length, priority, mark, narrowed)
