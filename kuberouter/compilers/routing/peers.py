"""The iBGP full mesh: one peer per other node. One owner per node, so that a node's change touches one session."""

from __future__ import annotations

from kuberouter.cluster.routes import node_addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import ALL_PEERS, NODE_PEERS
from kuberouter.model.bgp import NeighborSetEntry, NeighborSetEntryKey, Peer, PeerKey
from kuberouter.model.core import Fragment, Owner, Prefix, Problem, Reason, Row, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings


def compile_peer(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The session with a node, and its place in the sets that policies refer to; of this node only the latter.

    The session runs between the primary addresses of both: the first that is of a family in use here. Between nodes
    whose primary addresses are of different families there is none.
    """
    other = view.node_object(key.subject.name)
    if other is None or not settings.ibgp:
        return Fragment()
    families = node.families
    addresses = [a for a in node_addresses(other) if family_of(a) in families]
    mine = other.ref.name == node.name
    if mine or not addresses:
        return Fragment(_sets(node.addresses[0]) if mine else ())
    local, remote = node.addresses[0], addresses[0]
    problem = ""
    if family_of(local) is not family_of(remote):
        problem = "its primary address is of another family than this node's, so there is no BGP session with it"
    elif remote == local:
        problem = "it has the primary address of this node"
    if problem:
        return Fragment(problems=(Problem(other.ref, "status.addresses", Reason.CONFLICT, problem),))
    carried = tuple(f for f in families if any(family_of(a) is f for a in addresses))
    return Fragment((*_sets(remote), Peer(PeerKey(remote), settings.asn, local, settings.bgp_port, carried)))


def _sets(address: bytes) -> tuple[Row, ...]:
    family, host = family_of(address), Prefix(address, len(address) * 8)
    names = (NODE_PEERS[family], ALL_PEERS[family])
    return tuple(NeighborSetEntry(NeighborSetEntryKey(name, host)) for name in names)
