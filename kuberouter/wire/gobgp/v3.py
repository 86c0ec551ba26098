"""GoBGP's version 3 API (package `apipb`, GoBGP 3.x): a path's parts are messages of any type."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from kuberouter.model.bgp import RouteDirection, SetKind
from kuberouter.model.core import Prefix
from kuberouter.wire.gobgp.calls import Calls
from kuberouter.wire.gobgp.client import Connection
from kuberouter.wire.gobgp.codec import Codec, Numbers, one_of, packed_of, text_of
from kuberouter.wire.gobgp.stubs import v3_pb2 as pb

SERVICE = "/apipb.GobgpApi/"
NUMBERS = Numbers(
    best=0,
    global_table=0,
    kinds={SetKind.PREFIX: 0, SetKind.NEIGHBOR: 1},
    any_of=0,
    add_community=0,
    soft={RouteDirection.IMPORT: 0, RouteDirection.EXPORT: 1},
)


class CodecV3(Codec):
    """What is particular to version 3."""

    def __init__(self) -> None:
        super().__init__(pb, NUMBERS)

    def nlri(self, prefix: Prefix) -> Any:
        return self.attribute(pb.IPAddressPrefix(prefix=text_of(prefix.address), prefix_len=prefix.length))

    def attribute(self, message: Any) -> Any:
        packed = AnyMessage()
        packed.Pack(message)
        return packed

    def prefix_message(self, nlri: Any) -> Any:
        found = pb.IPAddressPrefix()
        return found if nlri.Unpack(found) else None

    def path_next_hop(self, path: Any) -> bytes:
        plain, multi = pb.NextHopAttribute(), pb.MpReachNLRIAttribute()
        for attribute in path.pattrs:
            if attribute.Unpack(plain):
                return packed_of(plain.next_hop)
            if attribute.Unpack(multi) and multi.next_hops:
                return one_of(multi.next_hops)
        return b""


class V3(Calls):
    """The calls of `client.Api` in version 3."""

    no_bfd = "gobgpd 3, which answers here, has no BFD (that came with 4.5)"

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, SERVICE, CodecV3())

    def stop(self) -> bool:
        """StopBgp; a daemon of version 3 can be started again."""
        self._do("StopBgp", pb.StopBgpRequest())
        return True
