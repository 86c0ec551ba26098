"""A gobgpd over gRPC on its unix socket: the calls that we need, whatever version of its API it speaks.

Every call has a deadline. A daemon that does not answer, or not in a version that we speak, raises Unavailable; one
that answers no raises Refused.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import grpc
import grpc.experimental

from kuberouter.model.bgp import (
    DefinedSetKey,
    NeighborSetEntryKey,
    Path,
    Peer,
    Policy,
    PolicyAssignment,
    PrefixSetEntryKey,
    RouteDirection,
    Speaker,
    Statement,
)
from kuberouter.model.core import Prefix, Unavailable, Value
from kuberouter.wire.gobgp.process import UNSEEN, listener

DEADLINE = 5.0
"""Seconds that a call may take."""
HUNG = 30.0
"""Seconds after a call that got no answer in which no other is tried: whoever calls has more to do than wait."""
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # an initial dump of the whole table is one message
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),  # half the time of handing over each reply
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name: how long an attempt to connect may take. Who is busy greets nobody for a while.
    ("grpc.min_reconnect_backoff_ms", int(DEADLINE * 1000)),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Refused(Exception):
    """gobgpd said no; the text is its own."""


class BestPath(Value, frozen=True, gc=False):
    """A best path to a prefix. `next_hop` is empty when there is none any more; `own` ones originate here.

    A change of a prefix comes as all paths that are now the best, in one message.
    """

    prefix: Prefix
    next_hop: bytes
    own: bool


class Sessions(Value, frozen=True, gc=False):
    """How many peers are configured, and how many of them have a session.

    `owing` are those with a session that have not told yet that they have told everything (end-of-RIB, RFC 4724).
    """

    configured: int
    established: int
    owing: int = 0


class Session(Value, frozen=True, gc=False):
    """How the session with a configured peer is."""

    address: bytes
    asn: int
    """The AS number that is configured."""
    state: str
    """`idle` to `established` (RFC 4271, section 8.2.2), in small letters."""
    received: int = 0
    """Routes that it has told of now, of all families, and those of them that import policy accepts."""
    accepted: int = 0


STATES = ("unknown", "idle", "connect", "active", "opensent", "openconfirm", "established")
"""By their numbers in every version."""


class Watch(Protocol):
    """A stream of best paths, the present ones first."""

    def __iter__(self) -> Iterator[Sequence[BestPath]]: ...

    def cancel(self) -> None: ...


SetEntry = PrefixSetEntryKey | NeighborSetEntryKey


class Api(Protocol):
    """What we ask of a gobgpd, in rows. All raise Unavailable and Refused."""

    @property
    def no_bfd(self) -> str:
        """Why this daemon knows nothing of BFD, with its version; empty where it does."""

    @property
    def withdraws(self) -> bool:
        """Whether peers hear that they lose what judging again no longer lets out; if not, nobody tells them."""

    def speaker(self) -> Speaker | None:
        """Its identity; None before `start`."""

    def start(self, speaker: Speaker) -> None:
        """Give it an identity. It forgets all policy."""

    def stop(self) -> bool:
        """End all sessions and forget everything. False where the process ends with that: another has to be started."""

    def sets(self) -> Iterable[tuple[DefinedSetKey, Sequence[SetEntry]]]:
        """All defined sets with their entries."""

    def add_set(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """Add entries to a set, which is made if it does not exist."""

    def remove_entries(self, key: DefinedSetKey, entries: Sequence[SetEntry]) -> None:
        """Take entries out of a set, which stays."""

    def remove_set(self, key: DefinedSetKey) -> None:
        """Remove a set that no statement refers to."""

    def statements(self) -> Iterable[Statement]:
        """All statements, as far as they consist of two sets, a verdict and the changes that we make."""

    def add_statement(self, row: Statement) -> None:
        """Make a statement under a new name."""

    def remove_statement(self, row: Statement) -> None:
        """Remove a statement that no policy refers to."""

    def policies(self) -> Iterable[Policy]:
        """All policies."""

    def add_policy(self, row: Policy) -> None:
        """Make a policy of statements that exist, under a new name."""

    def remove_policy(self, row: Policy) -> None:
        """Remove a policy that is not assigned; its statements stay."""

    def assignments(self) -> Iterable[PolicyAssignment]:
        """The global assignment of each direction."""

    def assign(self, row: PolicyAssignment) -> None:
        """Replace the global assignment of a direction at once."""

    def soft_reset(self, direction: RouteDirection) -> None:
        """Have the routes of all sessions judged again."""

    def peers(self) -> Iterable[Peer]:
        """All configured peers."""

    def sessions(self) -> Sessions:
        """How many of them have a session."""

    def session_states(self) -> Iterable[Session]:
        """How each of them is."""

    def add_peer(self, row: Peer, *, restarting: bool = False) -> None:
        """Configure a peer, all but `bfd` where there is none. `restarting` tells it that we are back (RFC 4724)."""

    def remove_peer(self, row: Peer) -> None:
        """Remove a peer."""

    def paths(self) -> Iterable[Path]:
        """The paths that originate here."""

    def originate(self, announce: Sequence[Path], withdraw: Sequence[Path]) -> None:
        """Withdraw and announce many paths in one stream."""

    def watch(self) -> Watch:
        """Follow the best paths of all prefixes, beginning with those of now."""


class Connection:
    """A gRPC channel that speaks in Unavailable and Refused. Messages are generated classes, unknown to the checker."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._hung_until = 0.0
        self.breaks = 0
        """How often it was broken, or another version was found at its end: what was known of that end is void."""

    def close(self) -> None:
        """Close the channel; calls under way end with Unavailable."""
        self._channel.close()

    def error(self, error: Any) -> Exception:
        """The exception that a failed call means."""
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._hung_until = time.monotonic() + HUNG
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            if code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                self.breaks += 1
            return Unavailable(f"gobgpd does not answer on {self.target}")
        if code is grpc.StatusCode.UNIMPLEMENTED and (details or "").startswith("unknown service"):
            # Its name is another in each major version.
            self.breaks += 1
            return Unavailable(f"gobgpd on {self.target} has made room for one of another version")
        return Refused(details or code.name)

    def _expect_answer(self) -> None:
        if time.monotonic() < self._hung_until:
            raise Unavailable(f"gobgpd does not answer on {self.target}")

    def knows(self, method: str) -> bool:
        """Whether there is such a method at the other end; it is called without anything said. Raises Unavailable."""
        self._expect_answer()
        try:
            self._channel.unary_unary(method, bytes, bytes)(b"", timeout=DEADLINE)
        except grpc.RpcError as error:
            # Before a daemon has an identity it may refuse, but in words of its own.
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return False
            if isinstance(failure := self.error(error), Unavailable):
                raise failure from None
        return True

    def end_server(self) -> bool:
        """Ask the process at the other end of a unix socket to end (SIGTERM). False where it cannot be seen from here.

        Whoever listens is known to the kernel; from inside a container its process may be in another world (id 0).
        """
        try:
            pid = listener(self.target.removeprefix("unix://"))
            if pid in (None, UNSEEN, os.getpid()):
                return False
            os.kill(pid, signal.SIGTERM)
        except OSError:
            return False
        return True

    def call(self, method: str, request: Any, reply: Any) -> Any:
        """One request, one reply."""
        self._expect_answer()
        invoke = self._channel.unary_unary(method, _encode, _decoder(reply))
        try:
            return invoke(request, timeout=DEADLINE)
        except grpc.RpcError as error:
            raise self.error(error) from None

    def list(self, method: str, request: Any, reply: Any) -> Sequence[Any]:
        """One request, all replies."""
        self._expect_answer()
        invoke = self._channel.unary_stream(method, _encode, _decoder(reply))
        try:
            return tuple(invoke(request, timeout=DEADLINE))
        except grpc.RpcError as error:
            raise self.error(error) from None

    def send(self, method: str, requests: Iterable[Any], reply: Any) -> Any:
        """Many requests, one reply."""
        self._expect_answer()
        invoke = self._channel.stream_unary(method, _encode, _decoder(reply))
        try:
            return invoke(iter(requests), timeout=DEADLINE)
        except grpc.RpcError as error:
            raise self.error(error) from None

    def follow(self, method: str, request: Any, reply: Any) -> Follow:
        """One request, replies without end."""
        return Follow(self, self._channel.unary_stream(method, _encode, _decoder(reply))(request))


class Follow:
    """Replies without end, until cancelled from another thread or broken; both raise Unavailable."""

    def __init__(self, connection: Connection, call: Any) -> None:
        self._connection = connection
        self._call = call

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise self._connection.error(error) from None

    def cancel(self) -> None:
        """End the stream; safe from any thread."""
        self._call.cancel()


def _encode(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _decoder(reply: Any) -> Callable[[bytes], Any]:
    decode: Callable[[bytes], Any] = reply.FromString
    return decode
