"""The calls of GoBGP's version 3 API (package `apipb`, GoBGP 3.x)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.empty_pb2 import Empty

from kuberouter.model.bgp import (
    DefinedSetKey,
    Path,
    PathKey,
    Peer,
    Policy,
    PolicyAssignment,
    PolicyAssignmentKey,
    PolicyKey,
    RouteDirection,
    Speaker,
    SpeakerKey,
    Statement,
)
from kuberouter.wire.gobgp.client import BestPath, Connection, Follow, Sessions, SetEntry
from kuberouter.wire.gobgp.stubs import v3_pb2 as pb
from kuberouter.wire.gobgp.v3codec import (
    ACCEPT,
    AFI,
    BEST,
    ESTABLISHED,
    GLOBAL,
    KINDS,
    LOCAL_SOURCES,
    REJECT,
    SOFT_DIRECTION,
    UNICAST,
    best_path,
    packed_of,
    path_message,
    path_next_hop,
    path_prefix,
    peer_message,
    peer_row,
    set_entries,
    set_message,
    statement_message,
    statement_row,
    text_of,
)

SERVICE = "/apipb.GobgpApi/"
BATCH = 500
"""Paths per message of a stream."""


class V3:
    """The calls of `client.Api` in version 3."""

    no_bfd = "gobgpd 3, which answers here, has no BFD (that came with 4.5)"

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
        addresses = tuple(packed for text in found.listen_addresses if (packed := packed_of(text)))
        return Speaker(SpeakerKey(), found.asn, packed_of(found.router_id), found.listen_port, addresses)

    def start(self, speaker: Speaker) -> None:
        """StartBgp."""
        identity = pb.Global(
            asn=speaker.asn,
            router_id=text_of(speaker.router_id),
            listen_port=speaker.port,
            listen_addresses=[text_of(address) for address in speaker.addresses],
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
                yield DefinedSetKey(kind, found.name), tuple(set_entries(kind, found))

    def add_set(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """AddDefinedSet, which appends."""
        self._do("AddDefinedSet", pb.AddDefinedSetRequest(defined_set=set_message(key, entries)))

    def remove_entries(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """DeleteDefinedSet with the exact entries."""
        self._do("DeleteDefinedSet", pb.DeleteDefinedSetRequest(defined_set=set_message(key, entries)))

    def remove_set(self, key: DefinedSetKey) -> None:
        """DeleteDefinedSet as a whole."""
        self._do("DeleteDefinedSet", pb.DeleteDefinedSetRequest(defined_set=set_message(key, ()), all=True))

    # --- policy

    def statements(self) -> Iterable[Statement]:
        """ListStatement."""
        for reply in self._all("ListStatement", pb.ListStatementRequest(), pb.ListStatementResponse):
            yield statement_row(reply.statement)

    def add_statement(self, row: Statement) -> None:
        """AddStatement; under an existing name it would merge."""
        self._do("AddStatement", pb.AddStatementRequest(statement=statement_message(row)))

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
            if (row := peer_row(reply.peer)) is not None:
                yield row

    def sessions(self) -> Sessions:
        """ListPeer, the state of the sessions."""
        states = [reply.peer.state.session_state for reply in self._peers()]
        return Sessions(len(states), states.count(ESTABLISHED))

    def add_peer(self, row: Peer, *, restarting: bool = False) -> None:
        """AddPeer."""
        self._do("AddPeer", pb.AddPeerRequest(peer=peer_message(row, restarting=restarting)))

    def remove_peer(self, row: Peer) -> None:
        """DeletePeer."""
        self._do("DeletePeer", pb.DeletePeerRequest(address=text_of(row.key.address)))

    # --- paths

    def paths(self) -> Iterable[Path]:
        """ListPath of the global table, those that no peer sent."""
        for afi in AFI.values():
            request = pb.ListPathRequest(table_type=GLOBAL, family=pb.Family(afi=afi, safi=UNICAST))
            for reply in self._all("ListPath", request, pb.ListPathResponse):
                for path in reply.destination.paths:
                    prefix, next_hop = path_prefix(path), path_next_hop(path)
                    if path.neighbor_ip in LOCAL_SOURCES and prefix is not None and next_hop:
                        yield Path(PathKey(prefix), next_hop)

    def originate(self, announce: Sequence[Path], withdraw: Sequence[Path]) -> None:
        """AddPathStream."""
        paths = [*(path_message(row, True) for row in withdraw), *(path_message(row, False) for row in announce)]
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
            yield tuple(found for path in message.table.paths if (found := best_path(path)) is not None)

    def cancel(self) -> None:
        """End the stream; safe from any thread."""
        self._stream.cancel()
