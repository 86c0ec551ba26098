"""nftables rows: our tables, sets, their elements, chains with whole rule lists, verdicts of maps.

There is one table per family and all in it is ours, so a row's table follows from its family. Rules are texts in the
language of nft(8) without our comment.
"""

from __future__ import annotations

import enum

from kuberouter.model.core import Family, KeyValue, Value, family_of
from kuberouter.model.netfilter import chain_digest, rule_tag

TABLE_NAME = {Family.IPV4: "kube-router-filter-ipv4", Family.IPV6: "kube-router-filter-ipv6"}
"""The names that the Go kube-router gave its tables."""


class NftTableKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Our table of a family."""

    family: Family


class NftTable(Value, frozen=True, gc=False):
    """A table of ours. Without it nothing else exists; its removal takes everything in it along at once.

    `dormant` is True only in what a driver reads: somebody has switched the table off.
    """

    key: NftTableKey
    dormant: bool = False


class SetContent(enum.Enum):
    """What a set or map holds."""

    ADDRESSES = "addresses"
    BLOCKS = "blocks"
    """Ranges of addresses that do not overlap."""
    PORTS = "ports"
    """Address, protocol and port together."""
    VERDICTS = "verdicts"
    """A map from an address to a verdict."""
    STRANGE = "strange"
    """Something else; only in what a driver reads."""


class NftSetKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A set or map by name."""

    family: Family
    name: str


class NftSet(Value, frozen=True, gc=False):
    """A set or map. Its elements are rows of their own."""

    key: NftSetKey
    content: SetContent


class NftElementKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One element of a set: packed address; last address of a range (empty in other sets); protocol and port or 0."""

    set: str
    address: bytes
    last: bytes = b""
    protocol: int = 0
    port: int = 0

    @property
    def family(self) -> Family:
        return family_of(self.address)


class NftElement(Value, frozen=True, gc=False):
    """An element of a set."""

    key: NftElementKey


class NftChainKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A chain by name."""

    family: Family
    name: str


class BaseHook(Value, frozen=True, gc=False):
    """Where the kernel calls a chain: hook by its nft name, and priority; lower ones come first.

    What no rule of the chain decides is accepted. `accepts` is False only in what a driver reads.
    """

    hook: str
    priority: int
    accepts: bool = True


class NftChain(Value, frozen=True, gc=False, eq=False):
    """A chain with all its rules in order. Equal by key, hook and digest: the kernel keeps tags, not texts.

    `fallback` are the rules that stand in when the kernel refuses those meant; None leaves the chain as it is, and what
    newly refers to it out.
    """

    key: NftChainKey
    digest: bytes
    rules: tuple[str, ...] = ()
    hook: BaseHook | None = None
    fallback: tuple[str, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NftChain)
            and self.key == other.key
            and self.digest == other.digest
            and self.hook == other.hook
        )

    def __ne__(self, other: object) -> bool:
        # The base class brings an inequality of its own, so the default negation of __eq__ does not apply.
        return not self == other

    def __hash__(self) -> int:
        return hash((self.key, self.digest, self.hook))


def make_nft_chain(
    key: NftChainKey, rules: tuple[str, ...], *, hook: BaseHook | None = None, fallback: tuple[str, ...] | None = None
) -> NftChain:
    """A chain row from its rule texts."""
    return NftChain(key, chain_digest(tuple(rule_tag(rule) for rule in rules)), rules, hook, fallback)


class NftVerdictKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A packed address in a map."""

    map: str
    address: bytes

    @property
    def family(self) -> Family:
        return family_of(self.address)


class NftVerdict(Value, frozen=True, gc=False):
    """What a map says of an address: the chain to go to, or with an empty name to accept."""

    key: NftVerdictKey
    chain: str = ""


class FormerTable(Value, frozen=True, gc=False):
    """A table of ours while nftables is not in use. It is never desired, so it is removed."""

    key: NftTableKey
