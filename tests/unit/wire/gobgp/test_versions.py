"""What the versions of GoBGP's API have in common and what they do not: numbers, path parts, BFD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from msgspec import structs

from kuberouter.model import bgp
from kuberouter.model.core import Family, Prefix, Secret
from kuberouter.wire.gobgp import v3, v4
from kuberouter.wire.gobgp.client import BestPath, Connection, Refused
from kuberouter.wire.gobgp.codec import Codec, Numbers, set_entries
from kuberouter.wire.gobgp.stubs import v4_pb2

CODECS = (v3.CodecV3(), v4.CodecV4())
PEER = bgp.Peer(
    bgp.PeerKey(ip_address("2001:db8::4").packed),
    65001,
    ip_address("2001:db8::1").packed,
    1790,
    (Family.IPV4, Family.IPV6),
    hold_time=30,
    password=Secret("hush"),
    multihop_ttl=4,
    restart_time=120,
    deferral_time=3,
    reflector_cluster=ip_address("0.0.0.42").packed,
    passive=True,
)
STATEMENT = bgp.Statement(
    bgp.StatementKey("name"),
    "prefixes",
    "peers",
    True,
    bgp.Prepend(65001, 3),
    next_hop_self=True,
    communities=(1, 65536),
)


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def sent(message: Any) -> Any:
    """A message after its way over the wire."""
    return type(message).FromString(message.SerializeToString())


@pytest.fixture(params=CODECS, ids=lambda codec: type(codec).__name__)
def codec(request: pytest.FixtureRequest) -> Codec:
    found: Codec = request.param
    return found


def values(numbers: Numbers) -> Iterator[int]:
    yield from (numbers.best, numbers.global_table, numbers.any_of, numbers.add_community)
    yield from (numbers.kinds[bgp.SetKind.PREFIX], numbers.kinds[bgp.SetKind.NEIGHBOR])
    yield from (numbers.soft[bgp.RouteDirection.IMPORT], numbers.soft[bgp.RouteDirection.EXPORT])


def test_numbers_are_those_of_the_version() -> None:
    assert list(values(v3.NUMBERS)) == [0, 0, 0, 0, 0, 1, 0, 1]
    # What would be an addition or a prefix set in one version is a removal or a neighbor set in the other.
    assert list(values(v4.NUMBERS)) == [number + 1 for number in values(v3.NUMBERS)]


def test_peers_and_statements_come_back_as_they_went(codec: Codec) -> None:
    assert codec.peer_row(sent(codec.peer_message(PEER))) == PEER
    plain = bgp.Peer(PEER.key, 0, PEER.local_address)
    assert codec.peer_row(sent(codec.peer_message(plain))) == plain
    assert codec.statement_row(sent(codec.statement_message(STATEMENT))) == STATEMENT
    bare = bgp.Statement(STATEMENT.key, "prefixes", "peers", False)
    assert codec.statement_row(sent(codec.statement_message(bare))) == bare


def test_sets_come_back_as_they_went(codec: Codec) -> None:
    entries: dict[bgp.SetKind, Sequence[bgp.PrefixSetEntryKey | bgp.NeighborSetEntryKey]] = {
        bgp.SetKind.PREFIX: [bgp.PrefixSetEntryKey("name", prefix("10.0.0.0/8"), 16, 24)],
        bgp.SetKind.NEIGHBOR: [bgp.NeighborSetEntryKey("name", prefix("2001:db8::1/128"))],
    }
    for kind, held in entries.items():
        message = sent(codec.set_message(bgp.DefinedSetKey(kind, "name"), held))
        assert message.defined_type == codec.numbers.kinds[kind]
        assert list(set_entries(kind, message)) == held


@pytest.mark.parametrize(("text", "hop"), [("10.244.1.0/24", "192.0.2.1"), ("fd44::/64", "2001:db8::1")])
def test_paths_come_back_as_they_went(codec: Codec, text: str, hop: str) -> None:
    row = bgp.Path(bgp.PathKey(prefix(text)), ip_address(hop).packed)
    assert codec.best_path(sent(codec.path_message(row, False))) == BestPath(row.key.prefix, row.next_hop, True)
    message = codec.path_message(row, True)
    message.neighbor_ip = "192.0.2.9"
    assert codec.best_path(sent(message)) == BestPath(row.key.prefix, b"", False)
    message.family.safi = 128
    assert codec.best_path(sent(message)) is None


def test_a_path_of_another_kind_is_none_of_ours(codec: Codec) -> None:
    message = codec.pb.Path(family=codec.pb.Family(afi=1, safi=1))
    assert codec.best_path(message) is None


def test_bfd_is_in_microseconds_on_the_wire() -> None:
    row = structs.replace(PEER, bfd=bgp.Bfd(3785, 4, 300, 500))
    message = sent(v4.CodecV4().peer_message(row))
    asked = (message.bfd.port, message.bfd.detection_multiplier)
    assert (*asked, message.bfd.desired_minimum_tx_interval, message.bfd.required_minimum_receive) == (
        3785,
        4,
        300_000,
        500_000,
    )
    assert v4.CodecV4().peer_row(message) == row


class Old(Connection):
    """A gobgpd 4 from before 4.5: what it says of peers holds nothing of BFD, on or off."""

    def __init__(self) -> None:
        self.peers: list[Any] = []

    def call(self, method: str, request: Any, reply: Any) -> Any:
        assert method == "/api.GoBgpService/AddPeer"
        request.peer.ClearField("bfd")
        self.peers.append(v4_pb2.ListPeerResponse(peer=request.peer))
        return reply()

    def list(self, method: str, request: Any, reply: Any) -> Sequence[Any]:
        del request, reply
        assert method == "/api.GoBgpService/ListPeer"
        return tuple(self.peers)

    def end_server(self) -> bool:
        return False


def test_a_gobgpd_4_without_bfd_is_found_out() -> None:
    wire = Old()
    with_bfd = structs.replace(PEER, bfd=bgp.Bfd())
    api = v4.V4(wire)
    assert api.no_bfd == ""
    api.add_peer(with_bfd)
    assert api.no_bfd == "the gobgpd 4 that answers here is too old for BFD (that came with 4.5)"
    # It has peers already when we start: then nobody has to be added first.
    api = v4.V4(wire)
    assert list(api.peers()) == [PEER]
    assert api.no_bfd


def test_a_gobgpd_4_whose_process_is_out_of_reach_is_not_stopped() -> None:
    with pytest.raises(Refused, match="takes another identity only from its start, and its process cannot be ended"):
        v4.V4(Old()).stop()
