"""The calls of GoBGP's API as far as its versions have them in common. Replies without content are alike, too."""

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
from kuberouter.wire.gobgp.client import STATES, BestPath, Connection, Follow, Session, Sessions, SetEntry, Watch
from kuberouter.wire.gobgp.codec import (
    ACCEPT,
    AFI,
    ESTABLISHED,
    LOCAL_SOURCES,
    REJECT,
    UNICAST,
    Codec,
    packed_of,
    set_entries,
    text_of,
)

BATCH = 500
"""Paths per message of a stream."""


class Calls:
    """All calls of `client.Api` but `stop`, in the version of a codec."""

    no_bfd = ""
    withdraws = True

    def __init__(self, connection: Connection, service: str, codec: Codec) -> None:
        """`service` is the name of the API's service, between slashes."""
        self._wire = connection
        self._service = service
        self._codec = codec
        self._numbers = codec.numbers
        self._pb = codec.pb

    def _do(self, method: str, request: Any, reply: Any = Empty) -> Any:
        return self._wire.call(self._service + method, request, reply)

    def _all(self, method: str, request: Any, reply: Any) -> Any:
        return self._wire.list(self._service + method, request, reply)

    # --- speaker

    def speaker(self) -> Speaker | None:
        """GetBgp; ASN 0 is a daemon that was not started yet."""
        # `global` is a word of Python, so the field has no attribute syntax.
        found = getattr(self._do("GetBgp", self._pb.GetBgpRequest(), self._pb.GetBgpResponse), "global")
        if not found.asn:
            return None
        addresses = tuple(packed for text in found.listen_addresses if (packed := packed_of(text)))
        return Speaker(
            SpeakerKey(),
            found.asn,
            packed_of(found.router_id),
            found.listen_port,
            addresses,
            multipath=found.use_multiple_paths,
        )

    def start(self, speaker: Speaker) -> None:
        """StartBgp."""
        identity = self._pb.Global(
            asn=speaker.asn,
            router_id=text_of(speaker.router_id),
            listen_port=speaker.port,
            listen_addresses=[text_of(address) for address in speaker.addresses],
            use_multiple_paths=speaker.multipath,
        )
        self._do("StartBgp", self._pb.StartBgpRequest(**{"global": identity}))

    # --- sets

    def sets(self) -> Iterable[tuple[DefinedSetKey, Sequence[SetEntry]]]:
        """ListDefinedSet of both kinds."""
        for kind, number in self._numbers.kinds.items():
            for reply in self._all(
                "ListDefinedSet", self._pb.ListDefinedSetRequest(defined_type=number), self._pb.ListDefinedSetResponse
            ):
                found = reply.defined_set
                yield DefinedSetKey(kind, found.name), tuple(set_entries(kind, found))

    def add_set(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """AddDefinedSet, which appends."""
        self._do("AddDefinedSet", self._pb.AddDefinedSetRequest(defined_set=self._codec.set_message(key, entries)))

    def remove_entries(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """DeleteDefinedSet with the exact entries."""
        self._do(
            "DeleteDefinedSet", self._pb.DeleteDefinedSetRequest(defined_set=self._codec.set_message(key, entries))
        )

    def remove_set(self, key: DefinedSetKey) -> None:
        """DeleteDefinedSet as a whole."""
        self._do(
            "DeleteDefinedSet", self._pb.DeleteDefinedSetRequest(defined_set=self._codec.set_message(key, ()), all=True)
        )

    # --- policy

    def statements(self) -> Iterable[Statement]:
        """ListStatement."""
        for reply in self._all("ListStatement", self._pb.ListStatementRequest(), self._pb.ListStatementResponse):
            yield self._codec.statement_row(reply.statement)

    def add_statement(self, row: Statement) -> None:
        """AddStatement; under an existing name it would merge."""
        self._do("AddStatement", self._pb.AddStatementRequest(statement=self._codec.statement_message(row)))

    def remove_statement(self, row: Statement) -> None:
        """DeleteStatement."""
        self._do(
            "DeleteStatement",
            self._pb.DeleteStatementRequest(statement=self._pb.Statement(name=row.key.name), all=True),
        )

    def policies(self) -> Iterable[Policy]:
        """ListPolicy."""
        for reply in self._all("ListPolicy", self._pb.ListPolicyRequest(), self._pb.ListPolicyResponse):
            yield Policy(PolicyKey(reply.policy.name), tuple(s.name for s in reply.policy.statements))

    def add_policy(self, row: Policy) -> None:
        """AddPolicy of existing statements."""
        policy = self._pb.Policy(
            name=row.key.name, statements=[self._pb.Statement(name=name) for name in row.statements]
        )
        self._do("AddPolicy", self._pb.AddPolicyRequest(policy=policy, refer_existing_statements=True))

    def remove_policy(self, row: Policy) -> None:
        """DeletePolicy without its statements."""
        policy = self._pb.Policy(name=row.key.name)
        self._do("DeletePolicy", self._pb.DeletePolicyRequest(policy=policy, preserve_statements=True, all=True))

    def assignments(self) -> Iterable[PolicyAssignment]:
        """ListPolicyAssignment of the global table, of both directions because none is named."""
        request = self._pb.ListPolicyAssignmentRequest(name="global")
        for reply in self._all("ListPolicyAssignment", request, self._pb.ListPolicyAssignmentResponse):
            found = reply.assignment
            key = PolicyAssignmentKey(RouteDirection(found.direction))
            accept = found.default_action != REJECT
            yield PolicyAssignment(key, tuple(policy.name for policy in found.policies), accept)

    def assign(self, row: PolicyAssignment) -> None:
        """SetPolicyAssignment."""
        assignment = self._pb.PolicyAssignment(
            name="global",
            direction=int(row.key.direction),
            policies=[self._pb.Policy(name=name) for name in row.policies],
            default_action=ACCEPT if row.accept else REJECT,
        )
        self._do("SetPolicyAssignment", self._pb.SetPolicyAssignmentRequest(assignment=assignment))

    def soft_reset(self, direction: RouteDirection) -> None:
        """ResetPeer, softly, for all peers."""
        self._do(
            "ResetPeer",
            self._pb.ResetPeerRequest(address="all", soft=True, direction=self._numbers.soft[direction]),
        )

    # --- peers

    def _peers(self) -> Any:
        return self._all("ListPeer", self._pb.ListPeerRequest(), self._pb.ListPeerResponse)

    def peers(self) -> Iterable[Peer]:
        """ListPeer, the configured side."""
        for reply in self._peers():
            if (row := self._codec.peer_row(reply.peer)) is not None:
                yield row

    def sessions(self) -> Sessions:
        """ListPeer, the state of the sessions."""
        peers = [reply.peer for reply in self._peers()]
        up = [peer for peer in peers if peer.state.session_state == ESTABLISHED]
        return Sessions(len(peers), len(up), sum(map(_owes, up)))

    def session_states(self) -> Iterable[Session]:
        """ListPeer, the state of each session."""
        for reply in self._peers():
            conf, number = reply.peer.conf, reply.peer.state.session_state
            state = STATES[number] if 0 <= number < len(STATES) else STATES[0]
            told = [family.state for family in reply.peer.afi_safis]
            received, accepted = sum(each.received for each in told), sum(each.accepted for each in told)
            yield Session(packed_of(conf.neighbor_address), conf.peer_asn, state, received, accepted)

    def add_peer(self, row: Peer, *, restarting: bool = False) -> None:
        """AddPeer."""
        self._do("AddPeer", self._pb.AddPeerRequest(peer=self._codec.peer_message(row, restarting=restarting)))

    def remove_peer(self, row: Peer) -> None:
        """DeletePeer."""
        self._do("DeletePeer", self._pb.DeletePeerRequest(address=text_of(row.key.address)))

    # --- paths

    def paths(self) -> Iterable[Path]:
        """ListPath of the global table, those that no peer sent."""
        for path in self._table():
            prefix, next_hop = self._codec.path_prefix(path), self._codec.path_next_hop(path)
            if path.neighbor_ip in LOCAL_SOURCES and prefix is not None and next_hop:
                yield Path(PathKey(prefix), next_hop)

    def _table(self) -> Iterator[Any]:
        for afi in AFI.values():
            request = self._pb.ListPathRequest(
                table_type=self._numbers.global_table, family=self._pb.Family(afi=afi, safi=UNICAST)
            )
            for reply in self._all("ListPath", request, self._pb.ListPathResponse):
                yield from reply.destination.paths

    def originate(self, announce: Sequence[Path], withdraw: Sequence[Path]) -> None:
        """AddPathStream."""
        self._wire.send(self._service + "AddPathStream", self._originations(announce, withdraw), Empty)

    def _originations(self, announce: Sequence[Path], withdraw: Sequence[Path]) -> Iterator[Any]:
        """The messages, each made while gobgpd is at work on those before."""
        for rows, gone in ((withdraw, True), (announce, False)):
            for at in range(0, len(rows), BATCH):
                paths = [self._codec.path_message(row, gone) for row in rows[at : at + BATCH]]
                yield self._pb.AddPathStreamRequest(table_type=self._numbers.global_table, paths=paths)

    def watch(self) -> Watch:
        """WatchEvent with the best paths of now first."""
        best = self._pb.WatchEventRequest.Table.Filter(type=self._numbers.best, init=True)
        request = self._pb.WatchEventRequest(table=self._pb.WatchEventRequest.Table(filters=[best]))
        stream = self._wire.follow(self._service + "WatchEvent", request, self._pb.WatchEventResponse)
        return BestPaths(stream, self._codec)


def _owes(peer: Any) -> bool:
    """Whether the end of a family's routes is awaited; only who announces graceful restart tells of it."""
    states = (family.mp_graceful_restart.state for family in peer.afi_safis)
    return any(state.received and not state.end_of_rib_received for state in states)


class BestPaths:
    """The stream of WatchEvent as best paths; messages without any are empty tuples."""

    def __init__(self, stream: Follow, codec: Codec) -> None:
        self._stream = stream
        self._codec = codec

    def __iter__(self) -> Iterator[Sequence[BestPath]]:
        message: Any
        for message in self._stream:
            yield tuple(found for path in message.table.paths if (found := self._codec.best_path(path)) is not None)

    def cancel(self) -> None:
        """End the stream; safe from any thread."""
        self._stream.cancel()
