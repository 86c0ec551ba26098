"""GoBGP's version 3 API (package `apipb`, GoBGP 3.x): a path's parts are messages of any type."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from kuberouter.model.bgp import RouteDirection, SetKind
from kuberouter.model.core import Prefix
from kuberouter.wire.gobgp.calls import Calls
from kuberouter.wire.gobgp.client import Connection
from kuberouter.wire.gobgp.codec import Codec, Numbers, one_of, packed_of, text_of
from kuberouter.wire.gobgp.stubs import v3_pb2 as pb

SERVICE = "/apipb.GobgpApi/"
_URL = "type.googleapis.com/"
_PREFIX, _NEXT_HOP, _MULTI = (
    _URL + message.DESCRIPTOR.full_name
    for message in (pb.IPAddressPrefix, pb.NextHopAttribute, pb.MpReachNLRIAttribute)
)
"""Types of parts (google/protobuf/any.proto)."""
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
        return AnyMessage(type_url=_URL + message.DESCRIPTOR.full_name, value=message.SerializeToString())

    def prefix_message(self, nlri: Any) -> Any:
        return pb.IPAddressPrefix.FromString(nlri.value) if nlri.type_url == _PREFIX else None

    def path_next_hop(self, path: Any) -> bytes:
        for attribute in path.pattrs:
            kind = attribute.type_url
            if kind == _NEXT_HOP:
                return _next_hop(attribute.value)
            if kind == _MULTI and (hops := pb.MpReachNLRIAttribute.FromString(attribute.value).next_hops):
                return one_of(hops)
        return b""


@lru_cache(maxsize=1024)
def _next_hop(value: bytes) -> bytes:
    """The next hop in an attribute of that kind. There are many paths to a node, or few nodes."""
    return packed_of(pb.NextHopAttribute.FromString(value).next_hop)


class V3(Calls):
    """The calls of `client.Api` in version 3."""

    no_bfd = "gobgpd 3, which answers here, has no BFD (that came with 4.5)"
    withdraws = False

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, SERVICE, CodecV3())

    def stop(self) -> bool:
        """StopBgp; a daemon of version 3 can be started again."""
        self._do("StopBgp", pb.StopBgpRequest())
        return True
