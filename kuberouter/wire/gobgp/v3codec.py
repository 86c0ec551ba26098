"""Rows to messages of GoBGP's version 3 API and back, and its numbers.

Addresses that gobgpd reports and that do not parse belong to nobody we know; such entries are skipped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from kuberouter.model.bgp import (
    DefinedSetKey,
    NeighborSetEntryKey,
    Path,
    Peer,
    PeerKey,
    PrefixSetEntryKey,
    Prepend,
    RouteDirection,
    SetKind,
    Statement,
    StatementKey,
)
from kuberouter.model.core import Family, Prefix, Secret
from kuberouter.wire.gobgp.client import BestPath, SetEntry
from kuberouter.wire.gobgp.stubs import v3_pb2 as pb

CONNECT_RETRY = 5
"""Seconds between attempts to reach a peer, the least that GoBGP honours; its default of 120 is no way to start."""
ESTABLISHED = 6
"""Session state (PeerState.SessionState)."""
BEST = 0
GLOBAL = 0
"""Filter of the watch, and table type."""
ACCEPT, REJECT = 1, 2
"""RouteAction."""
ADD_COMMUNITY = 0
"""CommunityAction.Type."""
INTERNAL = 1
"""Conditions.RouteType."""
SOFT_DIRECTION = {RouteDirection.IMPORT: 0, RouteDirection.EXPORT: 1}
"""ResetPeerRequest.SoftResetDirection."""
KINDS = {SetKind.PREFIX: 0, SetKind.NEIGHBOR: 1}
"""DefinedType."""
AFI = {Family.IPV4: 1, Family.IPV6: 2}
FAMILIES = {afi: family for family, afi in AFI.items()}
UNICAST = 1
LOCAL_SOURCES = ("", "<nil>")
"""`neighbor_ip` of a path that no peer sent."""


def best_path(path: Any) -> BestPath | None:
    prefix = path_prefix(path)
    if prefix is None:
        return None
    own = path.neighbor_ip in LOCAL_SOURCES
    return BestPath(prefix, b"" if path.is_withdraw else path_next_hop(path), own)


def path_prefix(path: Any) -> Prefix | None:
    if path.family.safi != UNICAST or path.family.afi not in FAMILIES:
        return None
    nlri = pb.IPAddressPrefix()
    if not path.nlri.Unpack(nlri):
        return None
    address = packed_of(nlri.prefix)
    return Prefix(address, nlri.prefix_len) if address else None


def path_next_hop(path: Any) -> bytes:
    plain, multi = pb.NextHopAttribute(), pb.MpReachNLRIAttribute()
    for attribute in path.pattrs:
        if attribute.Unpack(plain):
            return packed_of(plain.next_hop)
        if attribute.Unpack(multi) and multi.next_hops:
            return packed_of(multi.next_hops[0])
    return b""


def path_message(row: Path, withdraw: bool) -> Any:
    prefix = row.key.prefix
    family = pb.Family(afi=AFI[prefix.family], safi=UNICAST)
    nlri = _any(pb.IPAddressPrefix(prefix=text_of(prefix.address), prefix_len=prefix.length))
    if prefix.family is Family.IPV4:
        reach = pb.NextHopAttribute(next_hop=text_of(row.next_hop))
    else:
        reach = pb.MpReachNLRIAttribute(family=family, next_hops=[text_of(row.next_hop)], nlris=[nlri])
    attributes = [_any(pb.OriginAttribute(origin=0)), _any(reach)]
    return pb.Path(nlri=nlri, pattrs=attributes, family=family, is_withdraw=withdraw)


def _any(message: Any) -> Any:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def peer_message(row: Peer, *, restarting: bool = False) -> Any:
    """A peer. `restarting` sets the bit that says so to it (RFC 4724), and has it keep what it knew of us."""
    timers = pb.TimersConfig(
        connect_retry=CONNECT_RETRY, idle_hold_time_after_reset=CONNECT_RETRY, hold_time=row.hold_time
    )
    graceful = bool(row.restart_time)
    message = pb.Peer(
        conf=pb.PeerConf(
            neighbor_address=text_of(row.key.address),
            peer_asn=row.asn,
            auth_password=row.password.reveal() if row.password is not None else "",
        ),
        timers=pb.Timers(config=timers),
        transport=pb.Transport(
            local_address=text_of(row.local_address), remote_port=row.port, passive_mode=row.passive
        ),
        afi_safis=[
            pb.AfiSafi(
                config=pb.AfiSafiConfig(family=pb.Family(afi=AFI[family], safi=UNICAST), enabled=True),
                mp_graceful_restart=pb.MpGracefulRestart(config=pb.MpGracefulRestartConfig(enabled=graceful)),
            )
            for family in row.families
        ],
    )
    if row.multihop_ttl > 1:
        message.ebgp_multihop.CopyFrom(pb.EbgpMultihop(enabled=True, multihop_ttl=row.multihop_ttl))
    if row.reflector_cluster:
        cluster = text_of(row.reflector_cluster)
        message.route_reflector.CopyFrom(
            pb.RouteReflector(route_reflector_client=True, route_reflector_cluster_id=cluster)
        )
    if graceful:
        message.graceful_restart.CopyFrom(
            pb.GracefulRestart(
                enabled=True,
                restart_time=row.restart_time,
                deferral_time=row.deferral_time,
                local_restarting=restarting,
            )
        )
    return message


def peer_row(found: Any) -> Peer | None:
    """The configured side of a peer; None where its address is none."""
    address = packed_of(found.conf.neighbor_address)
    if not address:
        return None
    enabled = {a.config.family.afi for a in found.afi_safis if a.config.family.safi == UNICAST}
    reflector, multihop, graceful = found.route_reflector, found.ebgp_multihop, found.graceful_restart
    password = found.conf.auth_password
    return Peer(
        PeerKey(address),
        found.conf.peer_asn,
        packed_of(found.transport.local_address),
        found.transport.remote_port,
        tuple(family for family, afi in AFI.items() if afi in enabled),
        hold_time=found.timers.config.hold_time,
        password=Secret(password) if password else None,
        multihop_ttl=multihop.multihop_ttl if multihop.enabled else 0,
        restart_time=graceful.restart_time if graceful.enabled else 0,
        deferral_time=graceful.deferral_time if graceful.enabled else 0,
        reflector_cluster=packed_of(reflector.route_reflector_cluster_id) if reflector.route_reflector_client else b"",
        passive=found.transport.passive_mode,
    )


def statement_message(row: Statement) -> Any:
    """A statement."""
    actions = pb.Actions(route_action=ACCEPT if row.accept else REJECT)
    if row.prepend is not None:
        actions.as_prepend.CopyFrom(pb.AsPrependAction(asn=row.prepend.asn, repeat=row.prepend.repeat))
    if row.next_hop_self:
        actions.nexthop.CopyFrom(pb.NexthopAction(self=True))
    if row.communities:
        actions.community.CopyFrom(
            pb.CommunityAction(type=ADD_COMMUNITY, communities=[show_community(number) for number in row.communities])
        )
    conditions = pb.Conditions()
    if row.prefix_set:
        conditions.prefix_set.CopyFrom(pb.MatchSet(name=row.prefix_set))
    if row.neighbor_set:
        conditions.neighbor_set.CopyFrom(pb.MatchSet(name=row.neighbor_set))
    if row.internal:
        conditions.route_type = INTERNAL
    return pb.Statement(name=row.key.name, conditions=conditions, actions=actions)


def statement_row(found: Any) -> Statement:
    """A statement, as far as we write any."""
    actions = found.actions
    prepend = None
    if actions.HasField("as_prepend"):
        prepend = Prepend(actions.as_prepend.asn, actions.as_prepend.repeat)
    communities = (community_number(text) for text in actions.community.communities)
    return Statement(
        StatementKey(found.name),
        found.conditions.prefix_set.name,
        found.conditions.neighbor_set.name,
        actions.route_action == ACCEPT,
        prepend,
        actions.nexthop.self,
        tuple(sorted(number for number in communities if number is not None)),
        found.conditions.route_type == INTERNAL,
    )


def show_community(number: int) -> str:
    """A community in its usual form, two numbers of 16 bits (RFC 1997)."""
    return f"{number >> 16}:{number & 0xFFFF}"


def community_number(text: str) -> int | None:
    """The number of a community in that form; None for others, which we never write."""
    high, _, low = text.partition(":")
    return int(high) << 16 | int(low) if high.isdecimal() and low.isdecimal() else None


def set_message(key: DefinedSetKey, entries: Sequence[SetEntry]) -> Any:
    message = pb.DefinedSet(defined_type=KINDS[key.kind], name=key.name)
    for entry in entries:
        text = f"{text_of(entry.prefix.address)}/{entry.prefix.length}"
        if isinstance(entry, PrefixSetEntryKey):
            message.prefixes.add(ip_prefix=text, mask_length_min=entry.shortest, mask_length_max=entry.longest)
        else:
            message.list.append(text)
    return message


def set_entries(kind: SetKind, message: Any) -> Iterator[SetEntry]:
    if kind is SetKind.NEIGHBOR:
        for text in message.list:
            if (prefix := _network(text)) is not None:
                yield NeighborSetEntryKey(message.name, prefix)
        return
    for entry in message.prefixes:
        if (prefix := _network(entry.ip_prefix)) is not None:
            yield PrefixSetEntryKey(message.name, prefix, entry.mask_length_min, entry.mask_length_max)


def _network(text: str) -> Prefix | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    return Prefix(network.network_address.packed, network.prefixlen)


def text_of(address: bytes) -> str:
    return str(ipaddress.ip_address(address)) if address else ""


def packed_of(text: str) -> bytes:
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return b""
