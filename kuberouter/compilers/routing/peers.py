"""The sessions of this node: with other nodes, one owner each so that a node's change touches one, and with others."""

from __future__ import annotations

from collections.abc import Mapping

from kuberouter.cluster.routes import node_addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import ALL_PEERS, EXTERNAL_PEERS, NODE_PEERS
from kuberouter.compilers.routing.speaker import own_asn
from kuberouter.decode.annotations import NODE_PEERS as PEERS_ANNOTATION
from kuberouter.decode.annotations import field
from kuberouter.decode.scalars import show_address
from kuberouter.model.bgp import NeighborSetEntry, NeighborSetEntryKey, NodeBgp, Peer, PeerKey, PeerSpec
from kuberouter.model.core import Family, Fragment, Owner, Prefix, Problem, Rank, Reason, Row, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

ASKED_FOR = Rank(level=-1)
"""A peer that somebody names is what he says, should it be a node of the cluster as well."""
SHORTEST_DEFERRAL = 3
LONGEST_DEFERRAL = 15
"""Seconds after a restart of gobgpd in which it may keep silent, at most, waiting for what its peers tell. A node that
reflects nothing tells nothing of what it learns; and whoever is dead tells nothing at all."""


def compile_peer(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The session with a node, and its place in the sets that policies refer to; of this node only the latter.

    The session runs between the primary addresses of both: the first that is of a family in use here. Between nodes
    whose primary addresses are of different families there is none, nor between those of different AS numbers where
    not every node peers with every other, nor between clients of route reflectors.
    """
    other = view.node_object(key.subject.name)
    if other is None or not settings.ibgp:
        return Fragment()
    families = node.families
    addresses = [a for a in node_addresses(other) if family_of(a) in families]
    if other.ref.name == node.name:
        return Fragment(_sets(node.addresses[0], NODE_PEERS))
    if not addresses:
        return Fragment()
    local, remote = node.addresses[0], addresses[0]
    problem = ""
    if family_of(local) is not family_of(remote):
        problem = "its primary address is of another family than this node's, so there is no BGP session with it"
    elif remote == local:
        problem = "it has the primary address of this node"
    if problem:
        return Fragment(problems=(Problem(other.ref, "status.addresses", Reason.CONFLICT, problem),))
    asn, mine, theirs = own_asn(view, settings), view.bgp, other.options.bgp
    if not asn or not (settings.full_mesh or theirs.asn == asn) or _both_clients(mine, theirs):
        return Fragment(_sets(remote, NODE_PEERS))
    restart, deferral = _graceful(mine, settings)
    peer = Peer(
        PeerKey(remote),
        asn,
        local,
        settings.bgp_port,
        tuple(f for f in families if any(family_of(a) is f for a in addresses)),
        restart_time=restart,
        deferral_time=deferral,
        reflector_cluster=_reflects(mine, theirs),
        # One of both dials. GoBGP turns down callers for a while after a session has ended, so two that both dial can
        # miss each other again and again, and one whose call is turned down forgets what it kept over a restart.
        passive=remote < local,
    )
    return Fragment((*_sets(remote, NODE_PEERS), peer))


def _both_clients(mine: NodeBgp, other: NodeBgp) -> bool:
    """A client of route reflectors peers with these only."""
    if mine.reflector is None or mine.reflector.server:
        return False
    return other.reflector is None or not other.reflector.server


def _reflects(mine: NodeBgp, other: NodeBgp) -> bytes:
    """The cluster under which we reflect to and from another node; empty where we do not."""
    if mine.reflector is None or not mine.reflector.server or other.reflector is None or other.reflector.server:
        return b""
    return mine.reflector.cluster


def _graceful(mine: NodeBgp, settings: RouterSettings) -> tuple[int, int]:
    """Restart time and deferral time of a peer in seconds, both 0 without graceful restart."""
    if settings.graceful is None:
        return 0, 0
    reflects = mine.reflector is not None and mine.reflector.server
    deferral = min(settings.graceful.deferral_time, LONGEST_DEFERRAL if reflects else SHORTEST_DEFERRAL)
    return settings.graceful.restart_time, deferral


def compile_external(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The peers outside the cluster that flags name, or if these name none those of this node's annotations."""
    if not own_asn(view, settings):
        # That is the speaker's problem.
        return Fragment()
    specs, where = settings.peers.specs, "--peer-router-ips"
    annotation = field(PEERS_ANNOTATION.key)
    problems: list[Problem] = []
    if specs and view.bgp.peers:
        text = "flags name peers (--peer-router-ips), so those of annotations have no effect"
        problems.append(Problem(key.subject, annotation, Reason.IGNORED, text))
    elif not specs:
        specs, where = view.bgp.peers or (), annotation
    rows: list[Row] = []
    for spec in specs:
        local = spec.local_address or _speaking_to(spec.address, node)
        if spec.address in node.addresses:
            text = f"the peer {show_address(spec.address)} is this node itself"
            problems.append(Problem(key.subject, where, Reason.CONFLICT, text))
        elif not local:
            text = f"the peer {show_address(spec.address)} is of a family of which this node has no address"
            problems.append(Problem(key.subject, where, Reason.CONFLICT, text))
        else:
            rows += (*_sets(spec.address, EXTERNAL_PEERS), _external(spec, local, view.bgp, node, settings))
            if spec.local_address and node.bindable and local not in node.bindable:
                text = f"no link of this node has {show_address(local)}, from which to speak to a peer"
                problems.append(Problem(key.subject, where, Reason.MISSING, text))
    if settings.graceful is not None and any(spec.bfd is not None for spec in specs):
        text = "BFD ends at once what graceful restart would keep: one of them should be off"
        problems.append(Problem(key.subject, where, Reason.CONFLICT, text))
    return Fragment(tuple(rows), tuple(problems), ASKED_FOR)


def _external(spec: PeerSpec, local: bytes, mine: NodeBgp, node: NodeFacts, settings: RouterSettings) -> Peer:
    restart, deferral = _graceful(mine, settings)
    return Peer(
        PeerKey(spec.address),
        spec.asn,
        local,
        spec.port,
        node.families,
        hold_time=settings.peers.hold_time,
        password=spec.password,
        multihop_ttl=settings.peers.multihop_ttl if settings.peers.multihop_ttl > 1 else 0,
        restart_time=restart,
        deferral_time=deferral,
        bfd=spec.bfd,
    )


def _speaking_to(remote: bytes, node: NodeFacts) -> bytes:
    """The address of this node that speaks to a peer: the best one of its family; empty without any."""
    return node.address(family_of(remote)) or b""


def _sets(address: bytes, peers: Mapping[Family, str]) -> tuple[Row, ...]:
    family, host = family_of(address), Prefix(address, len(address) * 8)
    names = (peers[family], ALL_PEERS[family])
    return tuple(NeighborSetEntry(NeighborSetEntryKey(name, host)) for name in names)
