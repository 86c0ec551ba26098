"""Keys of chains, sets and maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from kuberouter.compilers.policies.names import (
    DISPATCH_CHAIN,
    NODE_PORT_SET,
    POLICY_PREFIX,
    PROFILE_PREFIX,
    SERVED_SET,
    SET_PREFIX,
    content_name,
)
from kuberouter.compilers.policies.spelling import Memberships
from kuberouter.model.core import Family, Prefix
from kuberouter.model.nftables import KeyType, NftChainKey, NftFamily, NftSet, NftSetKey, SetForm, packed_port
from kuberouter.model.policy import Direction, PodSet, Use

LAYER = {Family.IPV4: NftFamily.IPV4, Family.IPV6: NftFamily.IPV6}
ADDRESS = {Family.IPV4: KeyType.IPV4_ADDR, Family.IPV6: KeyType.IPV6_ADDR}
IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def chain_key(family: Family, name: str) -> NftChainKey:
    """A chain of the table of a family."""
    return NftChainKey(LAYER[family], name)


def set_key(family: Family, name: str) -> NftSetKey:
    """A set of the table of a family."""
    return NftSetKey(LAYER[family], name)


@lru_cache(maxsize=65536)
def named_set(family: Family, pods: PodSet) -> NftSet:
    """The set of the addresses, or the named ports, of the pods of a scope."""
    types: tuple[KeyType, ...] = (ADDRESS[family],)
    if pods.port:
        types += (KeyType.INET_PROTO, KeyType.INET_SERVICE)
    return NftSet(set_key(family, content_name(SET_PREFIX[pods.use], (family, "pods", pods))), types)


@lru_cache(maxsize=16)
def entries(family: Family, memberships: Memberships) -> tuple[Sequence[NftSetKey], Sequence[bytes]]:
    """The keys of the sets, and what stands in each of them behind an address: nothing, or a port.

    Pods that are in the same ones are compiled one after the other.
    """
    ports = [packed_port(pods.protocol or 0, number) for pods, number in memberships.ports]
    sets = (*memberships.sets, *(pods for pods, _ in memberships.ports))
    return [named_set(family, pods).key for pods in sets], [b""] * len(memberships.sets) + ports


@lru_cache(maxsize=256)
def block_set(family: Family, use: Use, prefixes: tuple[Prefix, ...]) -> NftSet:
    """The set of disjoint prefixes that ipBlocks come down to."""
    name = content_name(SET_PREFIX[use], (family, "blocks", prefixes))
    return NftSet(set_key(family, name), (ADDRESS[family],), SetForm.RANGES)


def dispatch_map(family: Family, direction: Direction) -> NftSet:
    """The map from the addresses of local pods to who judges a direction."""
    return NftSet(set_key(family, DISPATCH_CHAIN[direction]), (ADDRESS[family],), SetForm.VERDICTS)


def node_port_set(family: Family) -> NftSet:
    """Ports of the node that the proxy serves."""
    return NftSet(set_key(family, NODE_PORT_SET), (KeyType.INET_PROTO, KeyType.INET_SERVICE))


def served_set(family: Family) -> NftSet:
    """Cluster IPs that no range of the flags holds, with the ports that the proxy serves there."""
    return NftSet(set_key(family, SERVED_SET), (ADDRESS[family], KeyType.INET_PROTO, KeyType.INET_SERVICE))


def pod_blocks(family: Family) -> NftSet:
    """The pod CIDRs of this node; in use only where addresses that nobody has placed are cut off."""
    return NftSet(set_key(family, "KUBE-ROUTER-POD-BLOCKS"), (ADDRESS[family],), SetForm.RANGES)


def profile_chain(family: Family, direction: Direction, bodies: tuple[str, ...], *, cut: bool) -> NftChainKey:
    """The chain that judges the pods of a profile."""
    return chain_key(family, content_name(PROFILE_PREFIX, ("nft", family, direction, bodies, cut)))


def policy_chain(family: Family, rules: tuple[str, ...]) -> NftChainKey:
    """The chain with what one direction of a policy allows."""
    return chain_key(family, content_name(POLICY_PREFIX, ("nft", family, rules)))
