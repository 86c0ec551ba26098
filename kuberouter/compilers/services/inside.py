"""Clients of the cluster under an external policy Local: told apart by a firewall mark, they are served as by Cluster.

The policy is there to keep the client's address and the load balancer's choice of node. A pod, or the node itself, has
come by no load balancer: it asks its own node, which may well have no endpoint, and must not be refused for that.
So a packet of theirs to such a place gets the mark of another virtual service, which has all endpoints. Others keep to
the service of the address. Marks are entries of sets: one look-up however many places there are. They come after those
of direct return: inside there is no director to pass by.
"""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.cluster.frontends import FrontendKind
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import INSIDE_PORT_SET, INSIDE_SET, POD_SUBNET_SET, set_name
from kuberouter.model.core import Family, Fragment, Owner, Row
from kuberouter.model.ipvs import VirtualServiceKey
from kuberouter.model.netfilter import (
    Hook,
    HookKey,
    HookRank,
    IpSet,
    IpSetKey,
    Member,
    MemberKey,
    SetType,
    Table,
)
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings


def inside(place: VirtualServiceKey, kind: FrontendKind, mark: int) -> Iterator[Row]:
    """What leads clients of the cluster to the virtual service of a mark when they ask for a place."""
    name = set_name(INSIDE_PORT_SET if kind is FrontendKind.NODE_PORT else INSIDE_SET, place.family)
    yield IpSet(IpSetKey(name), SetType.HASH_IP_PORT, place.family, marks=True)
    yield _pod_subnets(place.family)
    pods = set_name(POD_SUBNET_SET, place.family)
    known, give = f"-m set --match-set {name} dst,dst", f"-j SET --map-set {name} dst,dst --map-mark"
    for chain, text in (
        ("PREROUTING", f"-m set --match-set {pods} src {known} {give}"),
        ("OUTPUT", f"{known} {give}"),
    ):
        yield Hook(HookKey(place.family, Table.MANGLE, chain, text), HookRank.INSIDE)
    bits = len(place.address) * 8
    yield Member(MemberKey(name, place.address, bits, int(place.protocol), place.port), mark)


def compile_pod_subnets(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """The pods of one node, this one or another, as clients of the cluster. The router has them in the same set."""
    del settings
    other = view.node_object(key.subject.name)
    if other is None:
        return Fragment()
    rows: list[Row] = []
    for prefix in other.pod_cidrs:
        if prefix.family in node.families:
            rows.append(_pod_subnets(prefix.family))
            name = set_name(POD_SUBNET_SET, prefix.family)
            rows.append(Member(MemberKey(name, prefix.address, prefix.length)))
    return Fragment(tuple(rows))


def _pod_subnets(family: Family) -> IpSet:
    return IpSet(IpSetKey(set_name(POD_SUBNET_SET, family)), SetType.HASH_NET, family)
