"""What gobgpd tells of a path."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.model.core import Prefix
from kuberouter.wire.gobgp.codec import Codec
from kuberouter.wire.gobgp.stubs import v3_pb2, v4_pb2
from kuberouter.wire.gobgp.v3 import CodecV3
from kuberouter.wire.gobgp.v4 import CodecV4


def path(codec: Codec, pb: Any, *hops: str) -> Any:
    family = pb.Family(afi=2, safi=1)
    nlri = codec.nlri(Prefix(ip_address("2001:db8:9::").packed, 48))
    reach = codec.attribute(pb.MpReachNLRIAttribute(family=family, next_hops=hops, nlris=[nlri]))
    return pb.Path(nlri=nlri, pattrs=[reach], family=family, neighbor_ip="2001:db8::9")


@pytest.mark.parametrize(("codec", "pb"), [(CodecV3(), v3_pb2), (CodecV4(), v4_pb2)], ids=["gobgp3", "gobgp4"])
@pytest.mark.parametrize(
    ("hops", "taken"),
    [
        (("2001:db8::9", "fe80::9"), "2001:db8::9"),
        (("fe80::9", "2001:db8::9"), "2001:db8::9"),
        (("febf::9", "fec0::9"), "fec0::9"),
        (("fe80::9",), "fe80::9"),
    ],
)
def test_b20_the_next_hop_is_the_global_one_of_those_that_a_router_tells(
    codec: Codec, pb: Any, hops: tuple[str, ...], taken: str
) -> None:
    """Only the first next hop was looked at, which may be one that means nothing without its link."""
    found = codec.best_path(path(codec, pb, *hops))
    assert found is not None
    assert found.next_hop == ip_address(taken).packed
