"""GoBGP's version 4 API (package `api`, GoBGP 4.x): a path's parts are typed, and there is BFD from 4.5 on.

Its numbers keep 0 for what is not said, so most of them are one more than in version 3: what is an addition here would
be a removal there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import structs

from kuberouter.model.bgp import Bfd, Peer, RouteDirection, SetKind
from kuberouter.model.core import Family, Prefix
from kuberouter.wire.gobgp.calls import BATCH, Calls
from kuberouter.wire.gobgp.client import BestPath, Connection, Refused, Watch
from kuberouter.wire.gobgp.codec import AFI, UNICAST, Codec, Numbers, one_of, packed_of, text_of
from kuberouter.wire.gobgp.stubs import v4_pb2 as pb

SERVICE = "/api.GoBgpService/"
NUMBERS = Numbers(
    best=1,
    global_table=1,
    kinds={SetKind.PREFIX: 1, SetKind.NEIGHBOR: 2},
    any_of=1,
    add_community=1,
    soft={RouteDirection.IMPORT: 1, RouteDirection.EXPORT: 2},
)
MICRO = 1000
"""BFD's intervals are microseconds on the wire, milliseconds in rows."""
_ATTRIBUTES = {
    pb.OriginAttribute.DESCRIPTOR: "origin",
    pb.NextHopAttribute.DESCRIPTOR: "next_hop",
    pb.MpReachNLRIAttribute.DESCRIPTOR: "mp_reach",
}


EXACT = 1
"""api.TableLookupPrefix.Type"""


class CodecV4(Codec):
    """What is particular to version 4."""

    def __init__(self) -> None:
        super().__init__(pb, NUMBERS)

    def nlri(self, prefix: Prefix) -> Any:
        return pb.NLRI(prefix=pb.IPAddressPrefix(prefix=text_of(prefix.address), prefix_len=prefix.length))

    def attribute(self, message: Any) -> Any:
        return pb.Attribute(**{_ATTRIBUTES[message.DESCRIPTOR]: message})

    def prefix_message(self, nlri: Any) -> Any:
        return nlri.prefix if nlri.HasField("prefix") else None

    def path_next_hop(self, path: Any) -> bytes:
        for attribute in path.pattrs:
            kind = attribute.WhichOneof("attr")
            if kind == "next_hop":
                return packed_of(attribute.next_hop.next_hop)
            if kind == "mp_reach" and attribute.mp_reach.next_hops:
                return one_of(attribute.mp_reach.next_hops)
        return b""

    def peer_message(self, row: Peer, *, restarting: bool = False) -> Any:
        """A peer with its BFD."""
        message = super().peer_message(row, restarting=restarting)
        if (bfd := row.bfd) is not None:
            asked = pb.BfdPeerConfig(
                enabled=True,
                port=bfd.port,
                desired_minimum_tx_interval=bfd.send_interval * MICRO,
                required_minimum_receive=bfd.receive_interval * MICRO,
                detection_multiplier=bfd.multiplier,
            )
            message.bfd.CopyFrom(asked)
        return message

    def peer_row(self, found: Any) -> Peer | None:
        """A peer with its BFD."""
        row = super().peer_row(found)
        if row is None or not found.bfd.enabled:
            return row
        bfd = found.bfd
        send, receive = bfd.desired_minimum_tx_interval // MICRO, bfd.required_minimum_receive // MICRO
        return structs.replace(row, bfd=Bfd(bfd.port, bfd.detection_multiplier, send, receive))


class V4(Calls):
    """The calls of `client.Api` in version 4."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, SERVICE, CodecV4())

    def stop(self) -> bool:
        """End the process: after StopBgp it would answer nothing any more. If that is Refused it goes on as it was."""
        if self._wire.end_server():
            return False
        raise Refused(
            "gobgpd 4 takes another identity only from its start, and its process cannot be ended from here; "
            "restart it, or have its container share the process namespace of its pod"
        )

    def watch(self) -> Watch:
        """WatchEvent, where what is best now is asked for.

        Up to 4.5 a message names all paths of a prefix that are equally good, later ones only those that came and went.
        """
        return _Asked(super().watch(), self._best)

    def _best(self, prefixes: Sequence[Prefix]) -> Iterator[BestPath]:
        """ListPath of some prefixes: their best paths, and a path to nowhere for those that have none."""
        for family in Family:
            left = dict.fromkeys(prefix for prefix in prefixes if prefix.family is family)
            wanted = [pb.TableLookupPrefix(prefix=text_of(p.address) + f"/{p.length}", type=EXACT) for p in left]
            for at in range(0, len(wanted), BATCH):
                request = pb.ListPathRequest(
                    table_type=NUMBERS.global_table,
                    family=pb.Family(afi=AFI[family], safi=UNICAST),
                    prefixes=wanted[at : at + BATCH],
                )
                for reply in self._all("ListPath", request, pb.ListPathResponse):
                    best = (self._codec.best_path(path) for path in reply.destination.paths if path.best)
                    for found in best:
                        if found is not None:
                            left.pop(found.prefix, None)
                            yield found
            yield from (BestPath(prefix, b"", own=False) for prefix in left)

    def add_peer(self, row: Peer, *, restarting: bool = False) -> None:
        """AddPeer; releases before 4.5 take no notice of BFD, which shows in what they say of the peer."""
        super().add_peer(row, restarting=restarting)
        if row.bfd is not None and not self.no_bfd:
            request = pb.ListPeerRequest(address=text_of(row.key.address))
            self._look(self._all("ListPeer", request, pb.ListPeerResponse))

    def _peers(self) -> Any:
        found = super()._peers()
        self._look(found)
        return found

    def _look(self, replies: Any) -> None:
        # From 4.5 on every peer says what its BFD is, on or off.
        if any(not reply.peer.HasField("bfd") for reply in replies):
            self.no_bfd = "the gobgpd 4 that answers here is too old for BFD (that came with 4.5)"


class _Asked:
    """A stream of which only the prefixes count."""

    def __init__(self, stream: Watch, best: Callable[[Sequence[Prefix]], Iterable[BestPath]]) -> None:
        self._stream = stream
        self._best = best

    def __iter__(self) -> Iterator[Sequence[BestPath]]:
        for paths in self._stream:
            yield tuple(self._best(tuple(dict.fromkeys(path.prefix for path in paths)))) if paths else ()

    def cancel(self) -> None:
        self._stream.cancel()
