"""Keys of chains and names of ipsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from kuberouter.compilers.policies.names import POLICY_PREFIX, PROFILE_PREFIX, SET_PREFIX, USE, content_name
from kuberouter.compilers.policies.spelling import Memberships
from kuberouter.model.core import Family, Prefix
from kuberouter.model.netfilter import ChainKey, IpSet, IpSetKey, SetType, Table
from kuberouter.model.policy import Direction, PodSet, Use


def chain_key(family: Family, name: str) -> ChainKey:
    """A chain of the filter table."""
    return ChainKey(family, Table.FILTER, name)


def _set_name(use: Use, family: Family, kind: SetType, content: object) -> str:
    name = content_name(SET_PREFIX[use], (family, kind, content))
    return f"inet6:{name}" if family is Family.IPV6 else name


def fixed_set(family: Family, name: str, kind: SetType) -> IpSet:
    """A set whose name says it all."""
    return IpSet(IpSetKey(f"inet6:{name}" if family is Family.IPV6 else name), kind, family)


@lru_cache(maxsize=65536)
def named_sets(pods: PodSet) -> Mapping[Family, IpSet]:
    """The sets of the addresses, or the named ports, of the pods of a scope: one for each family."""
    kind = SetType.HASH_IP_PORT if pods.port else SetType.HASH_IP
    content = ("pods", pods)
    return {f: IpSet(IpSetKey(_set_name(pods.use, f, kind, content)), kind, f) for f in Family}


def named_set(family: Family, pods: PodSet) -> IpSet:
    """The one of a family."""
    return named_sets(pods)[family]


@lru_cache(maxsize=16)
def entries(memberships: Memberships) -> Mapping[Family, tuple[Sequence[str], Sequence[int], Sequence[int]]]:
    """The names of sets, and protocol and port of an entry in each.

    Pods that are in the same ones are compiled one after the other.
    """
    found = [(named_sets(pods), 0, 0) for pods in memberships.sets]
    found += [(named_sets(pods), pods.protocol or 0, number) for pods, number in memberships.ports]
    protocols, ports = [protocol for _, protocol, _ in found], [port for _, _, port in found]
    return {family: ([sets[family].key.name for sets, _, _ in found], protocols, ports) for family in Family}


@lru_cache(maxsize=256)
def block_set(family: Family, use: Use, prefixes: tuple[Prefix, ...]) -> IpSet:
    """The set of disjoint prefixes that ipBlocks come down to."""
    name = _set_name(use, family, SetType.HASH_NET, ("blocks", prefixes))
    return IpSet(IpSetKey(name), SetType.HASH_NET, family)


def profile_set(family: Family, direction: Direction, bodies: tuple[str, ...]) -> IpSet:
    """The set of the local pods that are judged by exactly these policy chains in one direction."""
    name = _set_name(USE[direction], family, SetType.HASH_IP, ("profile", direction, bodies))
    return IpSet(IpSetKey(name), SetType.HASH_IP, family)


def open_set(family: Family, direction: Direction) -> IpSet:
    """The set of the local pods that no policy isolates in a direction; in use only where others are cut off."""
    name = _set_name(USE[direction], family, SetType.HASH_IP, ("open", direction))
    return IpSet(IpSetKey(name), SetType.HASH_IP, family)


def profile_chain(family: Family, direction: Direction, bodies: tuple[str, ...], *, cut: bool) -> ChainKey:
    """The chain that judges the pods of a profile."""
    content = (family, direction, bodies, "cut") if cut else (family, direction, bodies)
    return chain_key(family, content_name(PROFILE_PREFIX, content))


def policy_chain(family: Family, rules: tuple[str, ...]) -> ChainKey:
    """The chain with what one direction of a policy allows."""
    return chain_key(family, content_name(POLICY_PREFIX, (family, rules)))
