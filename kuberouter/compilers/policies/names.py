"""Names of the firewall's chains and sets. The prefixes are kept from the Go kube-router: runbooks grep for them.

What follows a prefix is a hash over the content, so equal content has one name and a name never changes its meaning.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode

import msgspec

from kuberouter.model.core import Family, Prefix
from kuberouter.model.netfilter import ChainKey, IpSet, IpSetKey, SetType, Table
from kuberouter.model.policy import Direction, PodSet, Use

INPUT_CHAIN = "KUBE-ROUTER-INPUT"
FORWARD_CHAIN = "KUBE-ROUTER-FORWARD"
OUTPUT_CHAIN = "KUBE-ROUTER-OUTPUT"
DISPATCH_CHAIN = {Direction.EGRESS: "KUBE-ROUTER-POD-EGRESS", Direction.INGRESS: "KUBE-ROUTER-POD-INGRESS"}
ALLOW_CHAIN = "KUBE-NWPLCY-ALLOW"
GUARD_CHAIN = "KUBE-ROUTER-POD-GUARD"
NODE_PORT_SET = "KUBE-DST-NODEPORTS"
GUARD_SET = "KUBE-SRC-CLUSTER"
"""Pod CIDRs and addresses of all nodes: what no pod may borrow."""
CUT_CHAIN = "KUBE-NWPLCY-CUT"
UNKNOWN_CHAIN = "KUBE-NWPLCY-UNKNOWN"
POLICY_PREFIX = "KUBE-NWPLCY-"
PROFILE_PREFIX = "KUBE-POD-FW-"
SET_PREFIX = {Use.SOURCE: "KUBE-SRC-", Use.DESTINATION: "KUBE-DST-"}

ALLOWED_MARK = 0x10000
"""Some policy has allowed this packet in the direction that is being judged."""
PASSED_MARK = 0x20000
"""Policies have judged this packet and let it pass."""

CUT_MARK = 0x40000
"""In a connection's mark: policy has come to refuse the connection's packets."""

NFLOG_GROUP = 100

USE = {Direction.EGRESS: Use.SOURCE, Direction.INGRESS: Use.DESTINATION}
"""The end of a packet that is the protected pod."""


def content_name(prefix: str, content: object) -> str:
    """Prefix and 16 characters (80 bits) of a hash over the MessagePack form, in which every part has its length."""
    digest = hashlib.sha256(msgspec.msgpack.encode(content)).digest()
    return prefix + b32encode(digest)[:16].decode()


def chain_key(family: Family, name: str) -> ChainKey:
    """A chain of the filter table."""
    return ChainKey(family, Table.FILTER, name)


def _set_name(use: Use, family: Family, kind: SetType, content: object) -> str:
    name = content_name(SET_PREFIX[use], (family, kind, content))
    return f"inet6:{name}" if family is Family.IPV6 else name


def fixed_set(family: Family, name: str, kind: SetType) -> IpSet:
    """A set whose name says it all."""
    return IpSet(IpSetKey(f"inet6:{name}" if family is Family.IPV6 else name), kind, family)


def pod_set(family: Family, pods: PodSet) -> IpSet:
    """The set of the addresses, or the named ports, of the pods of a scope."""
    kind = SetType.HASH_IP_PORT if pods.port else SetType.HASH_IP
    return IpSet(IpSetKey(_set_name(pods.use, family, kind, ("pods", pods))), kind, family)


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
