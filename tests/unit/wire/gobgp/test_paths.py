"""What gobgpd tells of a path."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, cast

import pytest

from kuberouter.model.bgp import Path, PathKey
from kuberouter.model.core import Prefix
from kuberouter.wire.gobgp.calls import BATCH
from kuberouter.wire.gobgp.client import BestPath, Connection
from kuberouter.wire.gobgp.codec import Codec, packed_of
from kuberouter.wire.gobgp.stubs import v3_pb2, v4_pb2
from kuberouter.wire.gobgp.v3 import V3, CodecV3
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


@pytest.mark.parametrize("codec", [CodecV3(), CodecV4()], ids=["gobgp3", "gobgp4"])
def test_paths_of_many_nodes_keep_their_own_next_hops(codec: Codec) -> None:
    """What paths have in common is made once."""
    rows = [
        Path(PathKey(Prefix(bytes((10, number, 0, 0)), 16)), bytes((192, 0, 2, number // 2 % 3)))
        for number in range(12)
    ]
    messages = [codec.path_message(row, False) for row in rows]
    found = [codec.best_path(message) for message in messages]
    assert found == [BestPath(row.key.prefix, row.next_hop, True) for row in rows]


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        *((text, "") for text in ("", "<nil>", "192.0.2", "192.0.2.01", "0x7f.1", "1.2.3.4\0", "1.2.3.4 ", "fe80::%")),
    ],
)
def test_an_address_is_one_in_full_or_none(text: str, packed: str) -> None:
    assert packed_of(text) == (ip_address(packed).packed if packed else b"")


class Sent:
    """A connection that keeps what should be sent."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def send(self, method: str, requests: Iterable[Any], reply: Any) -> None:
        """Keep it."""
        del method, reply
        self.requests += requests


def test_many_paths_go_in_a_few_messages_and_withdrawals_first() -> None:
    sent = Sent()
    rows = [Path(PathKey(Prefix(bytes((10, n >> 8, n & 255, 0)), 24)), bytes((192, 0, 2, 1))) for n in range(2 * BATCH)]
    V3(cast(Connection, sent)).originate(rows[: BATCH + 1], rows[BATCH + 1 :])
    assert [len(request.paths) for request in sent.requests] == [BATCH - 1, BATCH, 1]
    assert [{path.is_withdraw for path in request.paths} for request in sent.requests] == [{True}, {False}, {False}]
    codec = CodecV3()
    told = [codec.path_prefix(path) for request in sent.requests for path in request.paths]
    assert told == [row.key.prefix for row in (*rows[BATCH + 1 :], *rows[: BATCH + 1])]
