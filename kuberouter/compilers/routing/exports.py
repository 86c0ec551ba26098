"""What may leave this node over BGP, and what may come in: sets, statements, policies, assignments.

To other nodes goes nothing but this node's pod CIDRs, from a route reflector also what other nodes told it; to peers
outside the cluster the service addresses that this node serves, and its pod CIDRs. Everything comes in but default
routes, the addresses of Services that this node itself serves and what an annotation rejects; where flags say what may
be learned, nothing else. All of it holds for route reflectors, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import (
    ALL_PEERS,
    ALLOWED_PREFIXES,
    DEFAULT_ROUTE_PREFIXES,
    EXTERNAL_PEERS,
    NODE_PEERS,
    POD_CIDR_PREFIXES,
    POLICY_PREFIX,
    REJECTED_PREFIXES,
    SERVICE_PREFIXES,
)
from kuberouter.model.bgp import (
    DefinedSet,
    DefinedSetKey,
    NeighborSetEntry,
    NeighborSetEntryKey,
    NodeBgp,
    Policy,
    PolicyAssignment,
    PolicyAssignmentKey,
    PolicyKey,
    PrefixSetEntry,
    PrefixSetEntryKey,
    RouteDirection,
    SetKind,
    Statement,
    StatementKey,
)
from kuberouter.model.core import Family, Fragment, Owner, Prefix, Row
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

BITS = {Family.IPV4: 32, Family.IPV6: 128}
PREFIX_SETS = (POD_CIDR_PREFIXES, SERVICE_PREFIXES, DEFAULT_ROUTE_PREFIXES, REJECTED_PREFIXES, ALLOWED_PREFIXES)


def compile_exports(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The policies. What changes from day to day are the entries of their sets; a change of annotations that concern
    what is told makes new statements.
    """
    del key, node
    rejected = tuple(_inside(REJECTED_PREFIXES, prefix) for prefix in view.bgp.import_reject)
    allowed = tuple(_inside(ALLOWED_PREFIXES, prefix) for prefix in settings.import_allow)
    exports = _policy(RouteDirection.EXPORT, _export(view.bgp, settings), accept=False)
    imports = _policy(RouteDirection.IMPORT, _import(settings), accept=not settings.import_allow)
    return Fragment((*_sets(), *rejected, *allowed, *exports, *imports))


def _sets() -> list[Row]:
    rows: list[Row] = []
    for family, bits in BITS.items():
        for prefixes in PREFIX_SETS:
            rows.append(DefinedSet(DefinedSetKey(SetKind.PREFIX, prefixes[family])))
        everything = Prefix(bytes(bits // 8), 0)
        rows.append(PrefixSetEntry(PrefixSetEntryKey(DEFAULT_ROUTE_PREFIXES[family], everything, 0, 0)))
        for neighbors in (NODE_PEERS, EXTERNAL_PEERS, ALL_PEERS):
            rows.append(DefinedSet(DefinedSetKey(SetKind.NEIGHBOR, neighbors[family])))
            # To GoBGP an empty neighbor set means every peer, so one member that no peer can be is always there.
            nobody = Prefix(bytes(bits // 8), bits)
            rows.append(NeighborSetEntry(NeighborSetEntryKey(neighbors[family], nobody)))
    return rows


def _inside(names: Mapping[Family, str], prefix: Prefix) -> PrefixSetEntry:
    """The entry of a prefix with everything inside it."""
    return PrefixSetEntry(PrefixSetEntryKey(names[prefix.family], prefix, prefix.length, BITS[prefix.family]))


def _policy(direction: RouteDirection, statements: list[Statement], *, accept: bool) -> tuple[Row, ...]:
    """A policy named by its content, and its assignment. `accept` is for routes that no statement decides on."""
    names = tuple(statement.key.name for statement in statements)
    number = int.from_bytes(hashlib.blake2b(",".join(names).encode(), digest_size=4).digest(), "big")
    policy = Policy(PolicyKey(f"{POLICY_PREFIX}{direction.name.lower()}{number}"), names)
    return (*statements, policy, PolicyAssignment(PolicyAssignmentKey(direction), (policy.key.name,), accept))


def _statement(prefixes: str, neighbors: str, *, accept: bool) -> Statement:
    return Statement(StatementKey(prefixes + neighbors), prefixes, neighbors, accept)


def _external(
    by_family: Mapping[Family, str], routes: Family, peers: Family, mine: NodeBgp, *, self_: bool
) -> Statement:
    """What goes to peers outside the cluster is changed as annotations and flags ask; the name says how.

    GoBGP writes the session's own address into routes of either family, and nobody can send IPv6 packets to an IPv4
    one: routes of the other family keep the node's address as their next hop.
    """
    prepend, communities = mine.prepend, mine.communities
    self_ = self_ and routes is peers
    prefixes, neighbors = by_family[routes], EXTERNAL_PEERS[peers]
    name = prefixes + neighbors
    if prepend is not None or self_ or communities:
        asked = repr((prepend and (prepend.asn, prepend.repeat), self_, communities))
        name += "-" + hashlib.blake2b(asked.encode(), digest_size=4).hexdigest()
    return Statement(StatementKey(name), prefixes, neighbors, True, prepend, self_, communities)


def _export(mine: NodeBgp, settings: RouterSettings) -> list[Statement]:
    told = [
        _statement(prefixes, neighbors, accept=True)
        for prefixes in POD_CIDR_PREFIXES.values()
        for neighbors in NODE_PEERS.values()
    ]
    if mine.reflector is not None and mine.reflector.server:
        # Of everybody but those outside: to name all nodes would cost a walk over them for each route and peer.
        told += [
            Statement(StatementKey(f"{neighbors}-reflected"), "", neighbors, False, internal=True)
            for neighbors in EXTERNAL_PEERS.values()
        ]
        told.append(Statement(StatementKey(f"{NODE_PEERS[Family.IPV4]}-reflected"), "", "", True, internal=True))
    outside = (SERVICE_PREFIXES, POD_CIDR_PREFIXES) if settings.advertise.pod_cidr else (SERVICE_PREFIXES,)
    told += [
        _external(by_family, routes, peers, mine, self_=settings.peers.next_hop_self)
        for peers in EXTERNAL_PEERS
        for by_family in outside
        for routes in by_family
    ]
    return told


def _import(settings: RouterSettings) -> list[Statement]:
    learned = [
        _statement(prefixes[family], neighbors, accept=False)
        for neighbors in ALL_PEERS.values()
        for prefixes in (SERVICE_PREFIXES, DEFAULT_ROUTE_PREFIXES, REJECTED_PREFIXES)
        for family in Family
    ]
    if settings.import_allow:
        learned += [
            _statement(prefixes, neighbors, accept=True)
            for neighbors in ALL_PEERS.values()
            for prefixes in ALLOWED_PREFIXES.values()
        ]
    return learned
