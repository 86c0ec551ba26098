"""Rows to messages of GoBGP's API and back: what its versions have in common. `v3.py` and `v4.py` add the rest.

Addresses that gobgpd reports and that do not parse belong to nobody we know; such entries are skipped.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
from kuberouter.model.core import Family, Prefix, Secret, is_link_local
from kuberouter.wire.gobgp.client import BestPath, SetEntry

CONNECT_RETRY = 2
"""Seconds between attempts to reach a peer, where GoBGP honours that (5 are the least to older ones); its default of
120 is no way to start."""
ESTABLISHED = 6
"""Session state (PeerState.SessionState)."""
ACCEPT, REJECT = 1, 2
"""RouteAction."""
INTERNAL = 1
"""Conditions.RouteType."""
AFI = {Family.IPV4: 1, Family.IPV6: 2}
FAMILIES = {afi: family for family, afi in AFI.items()}
UNICAST = 1
LOCAL_SOURCES = ("", "<nil>")
"""`neighbor_ip` of a path that no peer sent."""


class Numbers(NamedTuple):
    """Values of enumerations that differ between the versions: 4 keeps 0 for what is not said."""

    best: int
    """WatchEventRequest.Table.Filter.Type."""
    global_table: int
    """TableType."""
    kinds: dict[SetKind, int]
    """DefinedType."""
    any_of: int
    """MatchSet.Type."""
    add_community: int
    """CommunityAction.Type."""
    soft: dict[RouteDirection, int]
    """ResetPeerRequest's direction."""


class Codec:
    """Rows to messages and back."""

    def __init__(self, stubs: Any, numbers: Numbers) -> None:
        """`stubs` is the generated module of a version."""
        self.pb = stubs
        self.numbers = numbers
        self._last: tuple[bytes, tuple[Any, list[Any]]] | None = None

    # --- what differs

    def nlri(self, prefix: Prefix) -> Any:
        """A prefix as reachability information."""
        raise NotImplementedError

    def attribute(self, message: Any) -> Any:
        """A path attribute."""
        raise NotImplementedError

    def prefix_message(self, nlri: Any) -> Any:
        """The IPAddressPrefix in reachability information; None where it is another kind."""
        raise NotImplementedError

    def path_next_hop(self, path: Any) -> bytes:
        """The packed first next hop of a path; empty where it has none."""
        raise NotImplementedError

    # --- paths

    def best_path(self, path: Any) -> BestPath | None:
        """A path of the watch; None for other families than ours."""
        prefix = self.path_prefix(path)
        if prefix is None:
            return None
        own = path.neighbor_ip in LOCAL_SOURCES
        return BestPath(prefix, b"" if path.is_withdraw else self.path_next_hop(path), own)

    def path_prefix(self, path: Any) -> Prefix | None:
        """The prefix of a unicast path."""
        family = path.family
        if family.safi != UNICAST or family.afi not in FAMILIES:
            return None
        found = self.prefix_message(path.nlri)
        address = packed_of(found.prefix) if found is not None else b""
        return Prefix(address, found.prefix_len) if address else None

    def path_message(self, row: Path, withdraw: bool) -> Any:
        """A path that originates here, or its withdrawal."""
        pb, prefix = self.pb, row.key.prefix
        nlri = self.nlri(prefix)
        if prefix.family is Family.IPV4:
            family, attributes = self._plain(row.next_hop)
        else:
            family = pb.Family(afi=AFI[prefix.family], safi=UNICAST)
            reach = pb.MpReachNLRIAttribute(family=family, next_hops=[text_of(row.next_hop)], nlris=[nlri])
            attributes = [self.attribute(pb.OriginAttribute(origin=0)), self.attribute(reach)]
        return pb.Path(nlri=nlri, pattrs=attributes, family=family, is_withdraw=withdraw)

    def _plain(self, next_hop: bytes) -> tuple[Any, list[Any]]:
        """The family IPv4, and the attributes of its paths through a next hop: the same for thousands of them."""
        last = self._last
        if last is None or last[0] != next_hop:
            pb = self.pb
            reach = pb.NextHopAttribute(next_hop=text_of(next_hop))
            attributes = [self.attribute(pb.OriginAttribute(origin=0)), self.attribute(reach)]
            last = self._last = next_hop, (pb.Family(afi=AFI[Family.IPV4], safi=UNICAST), attributes)
        return last[1]

    # --- peers

    def peer_message(self, row: Peer, *, restarting: bool = False) -> Any:
        """A peer. `restarting` sets the bit that says so to it (RFC 4724), and has it keep what it knew of us."""
        pb = self.pb
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

    def peer_row(self, found: Any) -> Peer | None:
        """The configured side of a peer; None where its address is none."""
        address = packed_of(found.conf.neighbor_address)
        if not address:
            return None
        enabled = {a.config.family.afi for a in found.afi_safis if a.config.family.safi == UNICAST}
        reflector, multihop, graceful = found.route_reflector, found.ebgp_multihop, found.graceful_restart
        cluster = packed_of(reflector.route_reflector_cluster_id) if reflector.route_reflector_client else b""
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
            reflector_cluster=cluster,
            passive=found.transport.passive_mode,
        )

    # --- policy

    def statement_message(self, row: Statement) -> Any:
        """A statement."""
        pb, numbers = self.pb, self.numbers
        actions = pb.Actions(route_action=ACCEPT if row.accept else REJECT)
        if row.prepend is not None:
            actions.as_prepend.CopyFrom(pb.AsPrependAction(asn=row.prepend.asn, repeat=row.prepend.repeat))
        if row.next_hop_self:
            actions.nexthop.CopyFrom(pb.NexthopAction(self=True))
        if row.communities:
            texts = [show_community(number) for number in row.communities]
            actions.community.CopyFrom(pb.CommunityAction(type=numbers.add_community, communities=texts))
        conditions = pb.Conditions()
        if row.prefix_set:
            conditions.prefix_set.CopyFrom(pb.MatchSet(type=numbers.any_of, name=row.prefix_set))
        if row.neighbor_set:
            conditions.neighbor_set.CopyFrom(pb.MatchSet(type=numbers.any_of, name=row.neighbor_set))
        if row.internal:
            conditions.route_type = INTERNAL
        return pb.Statement(name=row.key.name, conditions=conditions, actions=actions)

    def statement_row(self, found: Any) -> Statement:
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

    def set_message(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> Any:
        """A defined set with these entries."""
        message = self.pb.DefinedSet(defined_type=self.numbers.kinds[key.kind], name=key.name)
        for entry in entries:
            text = f"{text_of(entry.prefix.address)}/{entry.prefix.length}"
            if isinstance(entry, PrefixSetEntryKey):
                message.prefixes.add(ip_prefix=text, mask_length_min=entry.shortest, mask_length_max=entry.longest)
            else:
                message.list.append(text)
        return message


def set_entries(kind: SetKind, message: Any) -> Iterator[SetEntry]:
    """The entries of a defined set."""
    if kind is SetKind.NEIGHBOR:
        for text in message.list:
            if (prefix := _network(text)) is not None:
                yield NeighborSetEntryKey(message.name, prefix)
        return
    for entry in message.prefixes:
        if (prefix := _network(entry.ip_prefix)) is not None:
            yield PrefixSetEntryKey(message.name, prefix, entry.mask_length_min, entry.mask_length_max)


def show_community(number: int) -> str:
    """A community in its usual form, two numbers of 16 bits (RFC 1997)."""
    return f"{number >> 16}:{number & 0xFFFF}"


def community_number(text: str) -> int | None:
    """The number of a community in that form; None for others, which we never write."""
    high, _, low = text.partition(":")
    return int(high) << 16 | int(low) if high.isdecimal() and low.isdecimal() else None


def _network(text: str) -> Prefix | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    return Prefix(network.network_address.packed, network.prefixlen)


def text_of(address: bytes) -> str:
    """An address as text; empty for none."""
    if len(address) == 4:
        return socket.inet_ntoa(address)
    return str(ipaddress.ip_address(address)) if address else ""


def one_of(hops: Iterable[str]) -> bytes:
    """The next hop that counts of one router's; empty for none.

    They are its global address and often its link-local one, which means nothing without a link.
    """
    return min((packed for text in hops if (packed := packed_of(text))), key=is_link_local, default=b"")


def packed_of(text: str) -> bytes:
    """A packed address; empty for what is none."""
    try:
        # C's takes a tenth of the time of Python's, but knows of no IPv6 address with a link.
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return _with_link(text)


def _with_link(text: str) -> bytes:
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return b""
