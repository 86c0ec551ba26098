"""Rows to messages of GoBGP's version 3 API and back (package `apipb`, GoBGP 3.x).

Addresses that gobgpd reports and that do not parse belong to nobody we know; such entries are skipped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from kuberouter.model.bgp import (
    DefinedSetKey,
    NeighborSetEntryKey,
    Path,
    PathKey,
    Peer,
    PeerKey,
    Policy,
    PolicyAssignment,
    PolicyAssignmentKey,
    PolicyKey,
    PrefixSetEntryKey,
    RouteDirection,
    SetKind,
    Speaker,
    SpeakerKey,
    Statement,
    StatementKey,
)
from kuberouter.model.core import Family, Prefix
from kuberouter.wire.gobgp.client import BestPath, Connection, Follow, Sessions, SetEntry
from kuberouter.wire.gobgp.stubs import v3_pb2 as pb

SERVICE = "/apipb.GobgpApi/"
BATCH = 500
"""Paths per message of a stream."""
CONNECT_RETRY = 5
"""Seconds between attempts to reach a peer, the least that GoBGP honours; its default of 120 is no way to start."""
ESTABLISHED = 6
"""Session state (PeerState.SessionState)."""
BEST = 0
GLOBAL = 0
"""Filter of the watch, and table type."""
ACCEPT, REJECT = 1, 2
"""RouteAction."""
SOFT_DIRECTION = {RouteDirection.IMPORT: 0, RouteDirection.EXPORT: 1}
"""ResetPeerRequest.SoftResetDirection."""
KINDS = {SetKind.PREFIX: 0, SetKind.NEIGHBOR: 1}
"""DefinedType."""
AFI = {Family.IPV4: 1, Family.IPV6: 2}
FAMILIES = {afi: family for family, afi in AFI.items()}
UNICAST = 1
LOCAL_SOURCES = ("", "<nil>")
"""`neighbor_ip` of a path that no peer sent."""


class V3:
    """The calls of `client.Api` in version 3."""

    def __init__(self, connection: Connection) -> None:
        self._wire = connection

    def _do(self, method: str, request: Any, reply: Any = Empty) -> Any:
        return self._wire.call(SERVICE + method, request, reply)

    def _all(self, method: str, request: Any, reply: Any) -> Any:
        return self._wire.list(SERVICE + method, request, reply)

    # --- speaker

    def speaker(self) -> Speaker | None:
        """GetBgp; ASN 0 is a daemon that was not started yet."""
        # `global` is a word of Python, so the field has no attribute syntax.
        found = getattr(self._do("GetBgp", pb.GetBgpRequest(), pb.GetBgpResponse), "global")
        if not found.asn:
            return None
        addresses = tuple(packed for text in found.listen_addresses if (packed := _packed(text)))
        return Speaker(SpeakerKey(), found.asn, _packed(found.router_id), found.listen_port, addresses)

    def start(self, speaker: Speaker) -> None:
        """StartBgp."""
        identity = pb.Global(
            asn=speaker.asn,
            router_id=_text(speaker.router_id),
            listen_port=speaker.port,
            listen_addresses=[_text(address) for address in speaker.addresses],
        )
        self._do("StartBgp", pb.StartBgpRequest(**{"global": identity}))

    def stop(self) -> None:
        """StopBgp; a daemon of version 3 can be started again."""
        self._do("StopBgp", pb.StopBgpRequest())

    # --- sets

    def sets(self) -> Iterable[tuple[DefinedSetKey, Sequence[SetEntry]]]:
        """ListDefinedSet of both kinds."""
        for kind, number in KINDS.items():
            for reply in self._all(
                "ListDefinedSet", pb.ListDefinedSetRequest(defined_type=number), pb.ListDefinedSetResponse
            ):
                found = reply.defined_set
                yield DefinedSetKey(kind, found.name), tuple(_entries(kind, found))

    def add_set(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """AddDefinedSet, which appends."""
        self._do("AddDefinedSet", pb.AddDefinedSetRequest(defined_set=_set(key, entries)))

    def remove_entries(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """DeleteDefinedSet with the exact entries."""
        self._do("DeleteDefinedSet", pb.DeleteDefinedSetRequest(defined_set=_set(key, entries)))

    def remove_set(self, key: DefinedSetKey) -> None:
        """DeleteDefinedSet as a whole."""
        self._do("DeleteDefinedSet", pb.DeleteDefinedSetRequest(defined_set=_set(key, ()), all=True))

    # --- policy

    def statements(self) -> Iterable[Statement]:
        """ListStatement."""
        for reply in self._all("ListStatement", pb.ListStatementRequest(), pb.ListStatementResponse):
            found = reply.statement
            conditions = found.conditions
            accept = found.actions.route_action == ACCEPT
            yield Statement(StatementKey(found.name), conditions.prefix_set.name, conditions.neighbor_set.name, accept)

    def add_statement(self, row: Statement) -> None:
        """AddStatement; under an existing name it would merge."""
        statement = pb.Statement(
            name=row.key.name,
            conditions=pb.Conditions(
                prefix_set=pb.MatchSet(name=row.prefix_set), neighbor_set=pb.MatchSet(name=row.neighbor_set)
            ),
            actions=pb.Actions(route_action=ACCEPT if row.accept else REJECT),
        )
        self._do("AddStatement", pb.AddStatementRequest(statement=statement))

    def remove_statement(self, row: Statement) -> None:
        """DeleteStatement."""
        self._do("DeleteStatement", pb.DeleteStatementRequest(statement=pb.Statement(name=row.key.name), all=True))

    def policies(self) -> Iterable[Policy]:
        """ListPolicy."""
        for reply in self._all("ListPolicy", pb.ListPolicyRequest(), pb.ListPolicyResponse):
            yield Policy(PolicyKey(reply.policy.name), tuple(s.name for s in reply.policy.statements))

    def add_policy(self, row: Policy) -> None:
        """AddPolicy of existing statements."""
        policy = pb.Policy(name=row.key.name, statements=[pb.Statement(name=name) for name in row.statements])
        self._do("AddPolicy", pb.AddPolicyRequest(policy=policy, refer_existing_statements=True))

    def remove_policy(self, row: Policy) -> None:
        """DeletePolicy without its statements."""
        policy = pb.Policy(name=row.key.name)
        self._do("DeletePolicy", pb.DeletePolicyRequest(policy=policy, preserve_statements=True, all=True))

    def assignments(self) -> Iterable[PolicyAssignment]:
        """ListPolicyAssignment of the global table."""
        for direction in RouteDirection:
            request = pb.ListPolicyAssignmentRequest(name="global", direction=int(direction))
            for reply in self._all("ListPolicyAssignment", request, pb.ListPolicyAssignmentResponse):
                found = reply.assignment
                accept = found.default_action != REJECT
                names = tuple(policy.name for policy in found.policies)
                yield PolicyAssignment(PolicyAssignmentKey(direction), names, accept)

    def assign(self, row: PolicyAssignment) -> None:
        """SetPolicyAssignment."""
        assignment = pb.PolicyAssignment(
            name="global",
            direction=int(row.key.direction),
            policies=[pb.Policy(name=name) for name in row.policies],
            default_action=ACCEPT if row.accept else REJECT,
        )
        self._do("SetPolicyAssignment", pb.SetPolicyAssignmentRequest(assignment=assignment))

    def soft_reset(self, direction: RouteDirection) -> None:
        """ResetPeer, softly, for all peers."""
        self._do("ResetPeer", pb.ResetPeerRequest(address="all", soft=True, direction=SOFT_DIRECTION[direction]))

    # --- peers

    def _peers(self) -> Any:
        return self._all("ListPeer", pb.ListPeerRequest(), pb.ListPeerResponse)

    def peers(self) -> Iterable[Peer]:
        """ListPeer, the configured side."""
        for reply in self._peers():
            found = reply.peer
            address = _packed(found.conf.neighbor_address)
            if not address:
                continue
            enabled = {a.config.family.afi for a in found.afi_safis if a.config.family.safi == UNICAST}
            families = tuple(family for family, afi in AFI.items() if afi in enabled)
            local = _packed(found.transport.local_address)
            yield Peer(PeerKey(address), found.conf.peer_asn, local, found.transport.remote_port, families)

    def sessions(self) -> Sessions:
        """ListPeer, the state of the sessions."""
        states = [reply.peer.state.session_state for reply in self._peers()]
        return Sessions(len(states), states.count(ESTABLISHED))

    def add_peer(self, row: Peer) -> None:
        """AddPeer."""
        self._do("AddPeer", pb.AddPeerRequest(peer=_peer(row)))

    def update_peer(self, row: Peer) -> None:
        """UpdatePeer."""
        self._do("UpdatePeer", pb.UpdatePeerRequest(peer=_peer(row)), pb.UpdatePeerResponse)

    def remove_peer(self, row: Peer) -> None:
        """DeletePeer."""
        self._do("DeletePeer", pb.DeletePeerRequest(address=_text(row.key.address)))

    # --- paths

    def paths(self) -> Iterable[Path]:
        """ListPath of the global table, those that no peer sent."""
        for afi in AFI.values():
            request = pb.ListPathRequest(table_type=GLOBAL, family=pb.Family(afi=afi, safi=UNICAST))
            for reply in self._all("ListPath", request, pb.ListPathResponse):
                for path in reply.destination.paths:
                    prefix, next_hop = _prefix(path), _next_hop(path)
                    if path.neighbor_ip in LOCAL_SOURCES and prefix is not None and next_hop:
                        yield Path(PathKey(prefix), next_hop)

    def originate(self, announce: Sequence[Path], withdraw: Sequence[Path]) -> None:
        """AddPathStream."""
        paths = [*(_path(row, True) for row in withdraw), *(_path(row, False) for row in announce)]
        batches = (paths[at : at + BATCH] for at in range(0, len(paths), BATCH))
        requests = (pb.AddPathStreamRequest(table_type=GLOBAL, paths=batch) for batch in batches)
        self._wire.send(SERVICE + "AddPathStream", requests, Empty)

    def watch(self) -> BestPaths:
        """WatchEvent with the best paths of now first."""
        best = pb.WatchEventRequest.Table.Filter(type=BEST, init=True)
        request = pb.WatchEventRequest(table=pb.WatchEventRequest.Table(filters=[best]))
        return BestPaths(self._wire.follow(SERVICE + "WatchEvent", request, pb.WatchEventResponse))


class BestPaths:
    """The stream of WatchEvent as best paths; messages without any are empty tuples."""

    def __init__(self, stream: Follow) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Sequence[BestPath]]:
        message: Any
        for message in self._stream:
            yield tuple(found for path in message.table.paths if (found := _best(path)) is not None)

    def cancel(self) -> None:
        """End the stream; safe from any thread."""
        self._stream.cancel()


def _best(path: Any) -> BestPath | None:
    prefix = _prefix(path)
    if prefix is None:
        return None
    own = path.neighbor_ip in LOCAL_SOURCES
    return BestPath(prefix, b"" if path.is_withdraw else _next_hop(path), own)


def _prefix(path: Any) -> Prefix | None:
    if path.family.safi != UNICAST or path.family.afi not in FAMILIES:
        return None
    nlri = pb.IPAddressPrefix()
    if not path.nlri.Unpack(nlri):
        return None
    address = _packed(nlri.prefix)
    return Prefix(address, nlri.prefix_len) if address else None


def _next_hop(path: Any) -> bytes:
    plain, multi = pb.NextHopAttribute(), pb.MpReachNLRIAttribute()
    for attribute in path.pattrs:
        if attribute.Unpack(plain):
            return _packed(plain.next_hop)
        if attribute.Unpack(multi) and multi.next_hops:
            return _packed(multi.next_hops[0])
    return b""


def _path(row: Path, withdraw: bool) -> Any:
    prefix = row.key.prefix
    family = pb.Family(afi=AFI[prefix.family], safi=UNICAST)
    nlri = _any(pb.IPAddressPrefix(prefix=_text(prefix.address), prefix_len=prefix.length))
    if prefix.family is Family.IPV4:
        reach = pb.NextHopAttribute(next_hop=_text(row.next_hop))
    else:
        reach = pb.MpReachNLRIAttribute(family=family, next_hops=[_text(row.next_hop)], nlris=[nlri])
    attributes = [_any(pb.OriginAttribute(origin=0)), _any(reach)]
    return pb.Path(nlri=nlri, pattrs=attributes, family=family, is_withdraw=withdraw)


def _any(message: Any) -> Any:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _peer(row: Peer) -> Any:
    timers = pb.TimersConfig(connect_retry=CONNECT_RETRY, idle_hold_time_after_reset=CONNECT_RETRY)
    return pb.Peer(
        conf=pb.PeerConf(neighbor_address=_text(row.key.address), peer_asn=row.asn),
        timers=pb.Timers(config=timers),
        transport=pb.Transport(local_address=_text(row.local_address), remote_port=row.port),
        afi_safis=[
            pb.AfiSafi(config=pb.AfiSafiConfig(family=pb.Family(afi=AFI[family], safi=UNICAST), enabled=True))
            for family in row.families
        ],
    )


def _set(key: DefinedSetKey, entries: Sequence[SetEntry]) -> Any:
    message = pb.DefinedSet(defined_type=KINDS[key.kind], name=key.name)
    for entry in entries:
        text = f"{_text(entry.prefix.address)}/{entry.prefix.length}"
        if isinstance(entry, PrefixSetEntryKey):
            message.prefixes.add(ip_prefix=text, mask_length_min=entry.shortest, mask_length_max=entry.longest)
        else:
            message.list.append(text)
    return message


def _entries(kind: SetKind, message: Any) -> Iterator[SetEntry]:
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


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address)) if address else ""


def _packed(text: str) -> bytes:
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return b""
