"""Whom a node peers with, and what it tells and takes: flags and annotations to sessions and policies."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest
from msgspec import structs

from kuberouter.cluster.store import Cluster
from kuberouter.compilers.routing import compile_exports, compile_external, compile_peer, compile_speaker
from kuberouter.model.bgp import (
    Bfd,
    NeighborSetEntry,
    NodeBgp,
    Peer,
    PeerSpec,
    Policy,
    PolicyAssignment,
    PrefixSetEntry,
    Prepend,
    Reflector,
    RouteDirection,
    Speaker,
    Statement,
)
from kuberouter.model.cluster import Node, NodeOptions
from kuberouter.model.core import Family, Fragment, ObjectRef, Owner, Prefix, Reason, Secret
from kuberouter.model.events import Upserted
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import Advertise, ExternalPeers, GracefulRestart, NodeSettings, RouterSettings

T = TypeVar("T")
V4, V6 = Family.IPV4, Family.IPV6


def packed(text: str) -> bytes:
    return ip_address(text).packed


def block(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


A, A6, B = "192.0.2.1", "2001:db8::1", "192.0.2.2"
BOTH = (packed(A), packed(A6))
FACTS = NodeFacts("me", BOTH[:1], bindable=BOTH[:1])
DUAL = NodeFacts("me", BOTH, bindable=BOTH)
NOTHING, SETTINGS = NodeBgp(), RouterSettings()
SPLIT = RouterSettings(full_mesh=False)
SERVER, CLIENT = Reflector(packed("0.0.0.42"), server=True), Reflector(packed("0.0.0.42"))


def node(name: str, address: str, bgp: NodeBgp = NOTHING) -> Node:
    return Node(ObjectRef("Node", "", name), (packed(address),), options=NodeOptions(bgp=bgp))


def known(mine: NodeBgp = NOTHING, *others: Node) -> Cluster:
    cluster = Cluster(NodeSettings("me"))
    for each in (node("me", A, mine), *others):
        cluster.apply(Upserted(each))
    return cluster


def own(compiler: str) -> Owner:
    return Owner(compiler, ObjectRef("Node", "", "me"))


def of(fragment: Fragment, kind: type[T]) -> list[T]:
    return [row for row in fragment.rows if isinstance(row, kind)]


def session(mine: NodeBgp, theirs: NodeBgp, settings: RouterSettings = SETTINGS) -> Peer | None:
    other = node("other", B, theirs)
    fragment = compile_peer(Owner("peer", other.ref), known(mine, other), node=FACTS, settings=settings)
    # Whether there is a session or not, policies know the node.
    assert {row.key.set for row in of(fragment, NeighborSetEntry)} == {"iBGPpeerset", "allpeerset"}
    return next(iter(of(fragment, Peer)), None)


def external(mine: NodeBgp = NOTHING, settings: RouterSettings = SETTINGS, facts: NodeFacts = FACTS) -> Fragment:
    return compile_external(own("external"), known(mine), node=facts, settings=settings)


def test_without_a_mesh_nodes_of_one_as_number_peer() -> None:
    first, second = NodeBgp(64601), NodeBgp(64602)
    peer = session(first, first, SPLIT)
    assert peer is not None
    assert peer.asn == 64601
    assert session(first, second, SPLIT) is None
    assert session(first, NodeBgp(), SPLIT) is None
    assert session(NodeBgp(), NodeBgp(), SPLIT) is None
    # In a mesh the annotation counts for nothing.
    peer = session(first, second)
    assert peer is not None
    assert peer.asn == 64512


def test_of_two_nodes_the_one_with_the_lower_address_dials() -> None:
    for address, passive in (("192.0.2.0", True), ("192.0.2.9", False)):
        other = node("other", address)
        fragment = compile_peer(Owner("peer", other.ref), known(NOTHING, other), node=FACTS, settings=SETTINGS)
        assert [peer.passive for peer in of(fragment, Peer)] == [passive]
    (peer,) = of(external(NodeBgp(peers=(PeerSpec(packed("192.0.2.0"), 65000),))), Peer)
    assert not peer.passive


def test_without_a_mesh_a_node_needs_an_as_number() -> None:
    fragment = compile_speaker(own("speaker"), known(), node=FACTS, settings=SPLIT)
    assert [(p.field, p.reason) for p in fragment.problems] == [
        ("metadata.annotations[kube-router.io/node.asn]", Reason.MISSING)
    ]
    assert not fragment.rows
    assert not external(NodeBgp(peers=(PeerSpec(packed("10.0.0.1"), 65000),)), SPLIT).rows
    (speaker,) = of(compile_speaker(own("speaker"), known(NodeBgp(64601)), node=FACTS, settings=SPLIT), Speaker)
    assert speaker.asn == 64601


@pytest.mark.parametrize(
    ("mine", "theirs", "peers", "cluster"),
    [
        (SERVER, None, True, ""),
        (SERVER, CLIENT, True, "0.0.0.42"),
        (SERVER, SERVER, True, ""),
        (SERVER, Reflector(packed("10.0.0.7")), True, "0.0.0.42"),
        (CLIENT, SERVER, True, ""),
        (CLIENT, CLIENT, False, ""),
        (CLIENT, None, False, ""),
        (None, CLIENT, True, ""),
        (None, SERVER, True, ""),
    ],
)
def test_who_peers_with_whom_under_reflection(
    mine: Reflector | None, theirs: Reflector | None, peers: bool, cluster: str
) -> None:
    peer = session(NodeBgp(reflector=mine), NodeBgp(reflector=theirs))
    assert (peer is not None) is peers
    assert peer is None or peer.reflector_cluster == (packed(cluster) if cluster else b"")


def test_b16_a_restart_is_short_even_if_somebody_keeps_silent() -> None:
    settings = RouterSettings(graceful=GracefulRestart(120, 360))
    for mine, deferral in ((None, 3), (CLIENT, 3), (SERVER, 15)):
        peer = session(NodeBgp(reflector=mine), NodeBgp(reflector=SERVER), settings)
        assert peer is not None
        assert (peer.restart_time, peer.deferral_time) == (120, deferral)
    peer = session(NodeBgp(), NodeBgp(), RouterSettings(graceful=GracefulRestart(120, 1)))
    assert peer is not None
    assert peer.deferral_time == 1
    peer = session(NodeBgp(), NodeBgp())
    assert peer is not None
    assert (peer.restart_time, peer.deferral_time) == (0, 0)


TOR = PeerSpec(packed("192.0.2.254"), 65000, 1790, password=Secret("hush"))


def test_peers_outside_are_those_of_flags_or_of_annotations() -> None:
    other = PeerSpec(packed("192.0.2.253"), 65001)
    flags = RouterSettings(peers=ExternalPeers((TOR,), hold_time=30, multihop_ttl=4))
    annotations = NodeBgp(peers=(other,))
    (peer,) = of(external(NodeBgp(), flags), Peer)
    assert peer == Peer(peer.key, 65000, packed(A), 1790, (V4,), hold_time=30, password=Secret("hush"), multihop_ttl=4)
    (peer,) = of(external(annotations), Peer)
    assert (peer.key.address, peer.asn, peer.port, peer.hold_time) == (other.address, 65001, 179, 90)
    both = external(annotations, flags)
    assert [peer.key.address for peer in of(both, Peer)] == [TOR.address]
    assert [(p.field, p.reason) for p in both.problems] == [
        ("metadata.annotations[kube-router.io/peers]", Reason.IGNORED)
    ]
    assert {row.key.set for row in of(both, NeighborSetEntry)} == {"externalpeerset", "allpeerset"}
    assert not external().rows


def test_a_neighbour_is_no_multihop_peer() -> None:
    for ttl in (0, 1):
        (peer,) = of(external(NodeBgp(), RouterSettings(peers=ExternalPeers((TOR,), multihop_ttl=ttl))), Peer)
        assert peer.multihop_ttl == 0


def test_a_peer_is_spoken_to_from_an_address_of_its_family() -> None:
    six = PeerSpec(packed("2001:db8::ff"), 65000)
    (peer,) = of(external(NodeBgp(peers=(six,)), facts=DUAL), Peer)
    assert (peer.local_address, peer.families) == (packed(A6), (V4, V6))
    fragment = external(NodeBgp(peers=(six, TOR)))
    assert [peer.key.address for peer in of(fragment, Peer)] == [TOR.address]
    assert [problem.reason for problem in fragment.problems] == [Reason.CONFLICT]
    (peer,) = of(external(NodeBgp(peers=(structs.replace(TOR, local_address=packed("192.0.2.7")),))), Peer)
    assert peer.local_address == packed("192.0.2.7")
    fragment = external(NodeBgp(peers=(structs.replace(TOR, local_address=packed("192.0.2.7")),)))
    assert [(problem.field[-7:], problem.reason) for problem in fragment.problems] == [("/peers]", Reason.MISSING)]
    assert not external(NodeBgp(peers=(structs.replace(TOR, local_address=packed(A)),))).problems


def test_a_node_is_no_peer_of_itself() -> None:
    fragment = external(NodeBgp(peers=(PeerSpec(packed(A), 65000),)))
    assert not fragment.rows
    assert [problem.reason for problem in fragment.problems] == [Reason.CONFLICT]


def test_bfd_and_graceful_restart_at_once_are_told_of() -> None:
    peers = ExternalPeers((structs.replace(TOR, bfd=Bfd()),))
    fragment = external(NodeBgp(), RouterSettings(peers=peers, graceful=GracefulRestart()))
    assert [(problem.field, problem.reason) for problem in fragment.problems] == [
        ("--peer-router-ips", Reason.CONFLICT)
    ]
    (peer,) = of(fragment, Peer)
    assert peer.bfd == Bfd()
    assert not external(NodeBgp(), RouterSettings(peers=peers)).problems


def listening(mine: NodeBgp, facts: NodeFacts = DUAL) -> tuple[tuple[bytes, ...], list[Reason]]:
    fragment = compile_speaker(own("speaker"), known(mine), node=facts, settings=RouterSettings())
    (speaker,) = of(fragment, Speaker)
    return speaker.addresses, [problem.reason for problem in fragment.problems]


def test_an_annotation_says_where_to_listen() -> None:
    one, two = packed("10.1.1.1"), packed("10.1.1.2")
    facts = NodeFacts("me", BOTH, bindable=(*BOTH, one))
    assert listening(NodeBgp()) == (BOTH, [])
    assert listening(NodeBgp(local_addresses=(one,)), facts) == ((one,), [])
    assert listening(NodeBgp(local_addresses=(one, two)), facts) == ((one,), [Reason.MISSING])
    assert listening(NodeBgp(local_addresses=(two,)), facts) == (BOTH, [Reason.MISSING])
    assert listening(NodeBgp(local_addresses=(bytes(4),))) == ((bytes(4),), [])
    # Addresses of a family that the node does not have do not count.
    assert listening(NodeBgp(local_addresses=(packed(A6), packed(A))), FACTS) == ((packed(A),), [])


def policy(
    mine: NodeBgp = NOTHING, settings: RouterSettings = SETTINGS
) -> tuple[list[Statement], list[Statement], dict[RouteDirection, bool]]:
    """Statements of both directions in order, and what becomes of the rest."""
    fragment = compile_exports(own("exports"), known(mine), node=FACTS, settings=settings)
    statements = {row.key.name: row for row in of(fragment, Statement)}
    policies = {row.key.name: [statements[name] for name in row.statements] for row in of(fragment, Policy)}
    assigned = {row.key.direction: row for row in of(fragment, PolicyAssignment)}
    exports, imports = (policies[assigned[way].policies[0]] for way in (RouteDirection.EXPORT, RouteDirection.IMPORT))
    return exports, imports, {way: row.accept for way, row in assigned.items()}


def pairs(statements: Iterable[Statement], neighbors: str) -> set[str]:
    return {row.prefix_set for row in statements if row.neighbor_set == neighbors}


PODS = {"podcidrdefinedset", "podcidrdefinedsetv6"}
VIPS = {"servicevipsdefinedset", "servicevipsdefinedsetv6"}


@pytest.mark.parametrize("family", ["", "v6"])
def test_b07_pod_cidrs_go_to_nodes_of_both_families_and_to_others_where_wanted(family: str) -> None:
    exports, _, rest = policy()
    assert rest == {RouteDirection.EXPORT: False, RouteDirection.IMPORT: True}
    assert pairs(exports, "iBGPpeerset" + family) == PODS
    assert pairs(exports, "externalpeerset" + family) == PODS | VIPS
    exports, _, _ = policy(settings=RouterSettings(advertise=Advertise(pod_cidr=False)))
    assert pairs(exports, "externalpeerset" + family) == VIPS


def test_what_goes_out_is_changed_as_asked_and_new_statements_have_new_names() -> None:
    plain, _, _ = policy()
    changes = [
        (NodeBgp(prepend=Prepend(64600, 3)), RouterSettings()),
        (NodeBgp(communities=(1, 2)), RouterSettings()),
        (NodeBgp(), RouterSettings(peers=ExternalPeers(next_hop_self=True))),
        (NodeBgp(prepend=Prepend(64600, 3), communities=(1,)), RouterSettings(peers=ExternalPeers(next_hop_self=True))),
    ]
    seen = {row.key.name for row in plain}
    for mine, settings in changes:
        changed, _, _ = policy(mine, settings)
        for row in changed:
            outside = row.neighbor_set.startswith("external")
            # An IPv6 route whose next hop is the IPv4 address of a session leads nowhere.
            same = row.prefix_set.endswith("v6") is row.neighbor_set.endswith("v6")
            asked = (mine.prepend, settings.peers.next_hop_self and same, mine.communities)
            assert (row.prepend, row.next_hop_self, row.communities) == (asked if outside else (None, False, ()))
            assert (row.key.name not in seen) is (outside and asked != (None, False, ()))
        seen |= {row.key.name for row in changed}


def test_b08_a_reflector_has_policies_too() -> None:
    plain, imports, _ = policy()
    exports, same, rest = policy(NodeBgp(reflector=SERVER))
    assert same == imports
    assert rest == {RouteDirection.EXPORT: False, RouteDirection.IMPORT: True}
    more = [row for row in exports if row not in plain]
    assert [(row.prefix_set, row.neighbor_set, row.accept, row.internal) for row in more] == [
        ("", "externalpeerset", False, True),
        ("", "externalpeersetv6", False, True),
        ("", "", True, True),
    ]
    assert policy(NodeBgp(reflector=CLIENT))[0] == plain


def test_imports_are_rejected_and_allowed_by_prefix() -> None:
    def entries(mine: NodeBgp, settings: RouterSettings) -> set[tuple[str, Prefix, int, int]]:
        fragment = compile_exports(own("exports"), known(mine), node=FACTS, settings=settings)
        found = (row.key for row in of(fragment, PrefixSetEntry))
        return {(key.set, key.prefix, key.shortest, key.longest) for key in found if "default" not in key.set[:7]}

    mine = NodeBgp(import_reject=(block("10.9.0.0/16"), block("fd09::/32")))
    assert entries(mine, RouterSettings()) == {
        ("customimportrejectdefinedset", block("10.9.0.0/16"), 16, 32),
        ("customimportrejectdefinedsetv6", block("fd09::/32"), 32, 128),
    }
    _, imports, rest = policy(mine)
    rejecting = VIPS | {
        name + family for name in ("defaultroutedefinedset", "customimportrejectdefinedset") for family in ("", "v6")
    }
    assert pairs(imports, "allpeerset") == pairs(imports, "allpeersetv6") == rejecting
    assert not any(row.accept for row in imports)
    settings = RouterSettings(import_allow=(block("10.244.0.0/16"),))
    assert entries(NodeBgp(), settings) == {("importallowdefinedset", block("10.244.0.0/16"), 16, 32)}
    _, imports, rest = policy(settings=settings)
    assert rest == {RouteDirection.EXPORT: False, RouteDirection.IMPORT: False}
    # What is rejected is before what is allowed.
    assert [row.accept for row in imports] == sorted(row.accept for row in imports)
    assert pairs([row for row in imports if row.accept], "allpeerset") == {
        "importallowdefinedset",
        "importallowdefinedsetv6",
    }
