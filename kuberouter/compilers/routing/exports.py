"""What may leave this node over BGP, and what may come in: sets, statements, policies, assignments.

Nothing leaves but this node's pod CIDRs to other nodes. Everything comes in but default routes and the addresses of
Services that this node itself serves. Both policies stand for good; what changes are the entries of their sets.
"""

from __future__ import annotations

import hashlib

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import (
    ALL_PEERS,
    DEFAULT_ROUTE_PREFIXES,
    NODE_PEERS,
    POD_CIDR_PREFIXES,
    POLICY_PREFIX,
    SERVICE_PREFIXES,
)
from kuberouter.model.bgp import (
    DefinedSet,
    DefinedSetKey,
    NeighborSetEntry,
    NeighborSetEntryKey,
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


def compile_exports(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The fixed policy of every node."""
    del key, view, node, settings
    return Fragment((*_sets(), *_EXPORT, *_IMPORT))


def _sets() -> list[Row]:
    rows: list[Row] = []
    for family, bits in BITS.items():
        for prefixes in (POD_CIDR_PREFIXES, SERVICE_PREFIXES, DEFAULT_ROUTE_PREFIXES):
            rows.append(DefinedSet(DefinedSetKey(SetKind.PREFIX, prefixes[family])))
        everything = Prefix(bytes(bits // 8), 0)
        rows.append(PrefixSetEntry(PrefixSetEntryKey(DEFAULT_ROUTE_PREFIXES[family], everything, 0, 0)))
        for neighbors in (NODE_PEERS, ALL_PEERS):
            rows.append(DefinedSet(DefinedSetKey(SetKind.NEIGHBOR, neighbors[family])))
            # To GoBGP an empty neighbor set means every peer, so one member that no peer can be is always there.
            nobody = Prefix(bytes(bits // 8), bits)
            rows.append(NeighborSetEntry(NeighborSetEntryKey(neighbors[family], nobody)))
    return rows


def _policy(direction: RouteDirection, statements: list[Statement], *, accept: bool) -> tuple[Row, ...]:
    """A policy named by its content, and its assignment. `accept` is for routes that no statement decides on."""
    names = tuple(statement.key.name for statement in statements)
    number = int.from_bytes(hashlib.blake2b(",".join(names).encode(), digest_size=4).digest(), "big")
    policy = Policy(PolicyKey(f"{POLICY_PREFIX}{direction.name.lower()}{number}"), names)
    return (*statements, policy, PolicyAssignment(PolicyAssignmentKey(direction), (policy.key.name,), accept))


def _statement(prefixes: str, neighbors: str, *, accept: bool) -> Statement:
    return Statement(StatementKey(prefixes + neighbors), prefixes, neighbors, accept)


_EXPORT = _policy(
    RouteDirection.EXPORT,
    [
        _statement(prefixes, neighbors, accept=True)
        for prefixes in POD_CIDR_PREFIXES.values()
        for neighbors in NODE_PEERS.values()
    ],
    accept=False,
)
_IMPORT = _policy(
    RouteDirection.IMPORT,
    [
        _statement(prefixes[family], neighbors, accept=False)
        for neighbors in ALL_PEERS.values()
        for prefixes in (SERVICE_PREFIXES, DEFAULT_ROUTE_PREFIXES)
        for family in Family
    ],
    accept=True,
)
