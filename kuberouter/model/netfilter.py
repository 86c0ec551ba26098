"""Netfilter rows: ipsets and their members, chains of ours, and our jumps in builtin chains.

Rules are ordered and `iptables-restore` is all-or-nothing per table, hence four row types. Compilers claim a whole
`Chain` where one owner knows all of it, or single `Rule`s of a chain that several owners share; the engine assembles
shared rules into the `Chain` that drivers see. `Hook`s are our rules in the builtin chains, beside everybody else's.
Rule texts are the match and target words of iptables-save without `-A CHAIN`, without tags of ours.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence

from kuberouter.model.core import Family, KeyValue, Value


class SetType(enum.StrEnum):
    """Set types of ipset(8) that we use; the value is the type's name."""

    HASH_IP = "hash:ip"
    HASH_NET = "hash:net"
    HASH_IP_PORT = "hash:ip,port"
    HASH_NET_PORT = "hash:net,port"
    HASH_IP_PORT_NET = "hash:ip,port,net"


class IpSetKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A set by name (at most 31 bytes); names of IPv6 sets begin with `inet6:`."""

    name: str


class IpSet(Value, frozen=True, gc=False):
    """A set. Its members are rows of their own. With `marks` each of them has a firewall mark for rules to hand out."""

    key: IpSetKey
    type: SetType
    family: Family
    marks: bool = False


class MemberKey(Value, frozen=True, gc=False):
    """One entry of a set: packed address, prefix length (32/128 in hash:ip sets), protocol and port (0 without).

    All addresses are length 0, never two entries of length 1: the kernel holds them so, and reads back as the former.
    There are so many that a kept hash, which is an object of its own, costs more than making it anew.
    """

    set: str
    address: bytes
    length: int
    protocol: int = 0
    port: int = 0


class SourcedKey(MemberKey, frozen=True, gc=False):
    """An entry of a hash:ip,port,net set: the network besides. A length of 0 is no network that such a set takes."""

    network: bytes = b""
    network_length: int = 0


class Member(Value, frozen=True, gc=False):
    """A set entry. Its mark is 0 in sets without marks."""

    key: MemberKey
    mark: int = 0


class Table(enum.StrEnum):
    """The xtables tables that we use."""

    FILTER = "filter"
    NAT = "nat"
    MANGLE = "mangle"
    RAW = "raw"


class ChainKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A chain of ours (at most 28 bytes) in one table of one family."""

    family: Family
    table: Table
    name: str


TAG_BYTES = 5


def rule_tag(text: str) -> str:
    """Ten hexadecimal digits that name a rule's text; written into its comment, read back instead of the text."""
    return hashlib.blake2b(text.encode(), digest_size=TAG_BYTES).hexdigest()


def chain_tag(rules: Sequence[str]) -> bytes:
    """Five bytes that name the texts of a chain's rules in their order; empty for a chain without rules."""
    return hashlib.blake2b("\n".join(rules).encode(), digest_size=TAG_BYTES).digest() if rules else b""


def count_tag(rules: int) -> bytes:
    """What is to be known of a chain whose name is made from its rules: how many they are, in two bytes."""
    return rules.to_bytes(2, "big")


OTHERWISE = b"\0"
"""Stands for the tag of a chain that somebody else has changed: no rules have it."""


Spares = tuple[tuple[str, str], ...]
"""What a chain can do without: words of rules, and the text that stands in for a refused rule with them, or nothing.

The first that fits counts; a rule that stands in for itself cannot be done without. No words fit every rule: those of
the chain do not depend on each other, and one that is left out is told of as refused.
"""


class Chain(Value, frozen=True, gc=False, eq=False):
    """A chain of ours with all its rules in order. Equal by key and tag: the kernel reports that, not our texts.

    `fallback` are the rules that stand in when the kernel refuses those meant (a module is missing); None leaves the
    chain as it is, and what newly refers to it out. `spares` are tried before that.
    """

    key: ChainKey
    tag: bytes
    """As `chain_tag` makes it, or `count_tag` where the name says the rest."""
    rules: tuple[str, ...] = ()
    fallback: tuple[str, ...] | None = None
    spares: Spares = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.key == other.key and self.tag == other.tag

    def __ne__(self, other: object) -> bool:
        # The base class brings an inequality of its own, so the default negation of __eq__ does not apply.
        return not self == other

    def __hash__(self) -> int:
        return hash((self.key, self.tag))


def make_chain(
    key: ChainKey, rules: tuple[str, ...], *, fallback: tuple[str, ...] | None = None, spares: Spares = ()
) -> Chain:
    """A chain row from its rule texts."""
    return Chain(key, chain_tag(rules), rules, fallback, spares)


def make_named_chain(key: ChainKey, rules: tuple[str, ...], *, fallback: tuple[str, ...] | None = None) -> Chain:
    """A chain row whose key is made from its rules, so that none of them has to carry a tag."""
    return Chain(key, count_tag(len(rules)) if rules else chain_tag(()), rules, fallback)


class FormerChain(Value, frozen=True, gc=False):
    """A chain of ours in the iptables variant that is not in use. It is never desired, so it is removed."""

    key: ChainKey


class FormerIptablesKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A family."""

    family: Family


class FormerIptables(Value, frozen=True, gc=False):
    """Hooks, chains or sets of the firewall in iptables while it is written in nftables. Never desired, so removed."""

    key: FormerIptablesKey


class FormerDirectKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A family."""

    family: Family


class FormerDirect(Value, frozen=True, gc=False):
    """What the Go kube-router has put around direct server return on the node. Never desired, so removed."""

    key: FormerDirectKey


class FormerProxyKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A family."""

    family: Family


class FormerProxy(Value, frozen=True, gc=False):
    """Guard and SNAT of the Go kube-router in builtin chains. Never desired, so removed."""

    key: FormerProxyKey


class FormerEgressKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A family."""

    family: Family


class FormerEgress(Value, frozen=True, gc=False):
    """What the Go kube-router lets through and masquerades of pods' packets. Never desired, so removed."""

    key: FormerEgressKey


class FormerPolicyKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A family."""

    family: Family


class FormerPolicy(Value, frozen=True, gc=False):
    """What leads from builtin chains into the firewall of the Go kube-router. Never desired, so removed."""

    key: FormerPolicyKey


class RuleKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One rule of a shared chain: `rank` orders rules in the chain (ties by text)."""

    chain: ChainKey
    rank: int
    text: str


class Rule(Value, frozen=True, gc=False):
    """One rule of a chain that several owners share; never seen by a driver.

    One that the kernel refuses is left out.
    """

    key: RuleKey


class CountedRule(Value, frozen=True, gc=False):
    """A rule as the kernel has it, without our comment, and the packets and bytes that have met it so far."""

    text: str
    packets: int
    bytes: int


class Position(enum.StrEnum):
    """Where a hook stands in its builtin chain: before everybody else's rules, or appended after them."""

    FIRST = "first"
    LAST = "last"


class HookRank(enum.IntEnum):
    """Order of our own hooks among themselves at the top of a builtin chain; policy before everything else."""

    POLICY = 10
    SERVICES = 20
    FORWARD = 30
    EGRESS = 40
    MASQUERADE = 50
    MARK = 60
    INSIDE = 65


class HookKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Our rule with this text in a builtin chain (INPUT, FORWARD, ...) of one table of one family."""

    family: Family
    table: Table
    chain: str
    text: str


class Hook(Value, frozen=True, gc=False):
    """A rule of ours in a builtin chain.

    `in_place` is False only in what a driver reads: it stands elsewhere, or lacks words that were refused.
    """

    key: HookKey
    rank: int
    position: Position = Position.FIRST
    in_place: bool = True


class FormerHook(Value, frozen=True, gc=False):
    """A hook of ours in the iptables variant that is not in use. It is never desired, so it is removed."""

    key: HookKey
    rank: int
