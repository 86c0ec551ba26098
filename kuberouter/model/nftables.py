"""nftables rows: our tables, sets, their elements, chains with whole rule lists, verdicts of maps.

There is one table per family and all in it is ours, so a row's table follows from its family. Rules are texts in the
language of nft(8) without our comment.
"""

from __future__ import annotations

import enum

from kuberouter.model.core import KeyValue, Value
from kuberouter.model.netfilter import Spares, chain_tag


class NftFamily(enum.IntEnum):
    """What a table looks at; the numbers are the kernel's NFPROTO_* (linux/netfilter.h)."""

    IPV4 = 2
    BRIDGE = 7
    IPV6 = 10


TABLE_NAME = {
    NftFamily.IPV4: "kube-router-filter-ipv4",
    NftFamily.BRIDGE: "kube-router-filter-bridge",
    NftFamily.IPV6: "kube-router-filter-ipv6",
}
"""Those of IPv4 and IPv6 had the same names in the Go kube-router."""


class NftTableKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Our table of a family."""

    family: NftFamily


class NftTable(Value, frozen=True, gc=False):
    """A table of ours. Without it nothing else exists; its removal takes everything in it along at once.

    `dormant` is True only in what a driver reads: somebody has switched the table off.
    """

    key: NftTableKey
    dormant: bool = False


class KeyType(enum.IntEnum):
    """Types of keys; the numbers are those of nft's own data types, by which it marks sets in the kernel."""

    IPV4_ADDR = 7
    IPV6_ADDR = 8
    INET_PROTO = 12
    INET_SERVICE = 13
    IFNAME = 41


class SetForm(enum.Enum):
    """How keys are kept."""

    KEYS = "keys"
    RANGES = "ranges"
    """From a first to a last key; ranges do not overlap."""
    VERDICTS = "verdicts"
    """A map from keys to verdicts."""
    STRANGE = "strange"
    """Any other; only in what a driver reads."""


class NftSetKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A set or map by name."""

    family: NftFamily
    name: str


class NftSet(Value, frozen=True, gc=False):
    """A set or map. Its elements are rows of their own."""

    key: NftSetKey
    types: tuple[KeyType, ...]
    form: SetForm = SetForm.KEYS


class NftElementKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One element of a set: its packed key, and in a set of ranges the last key of the range."""

    set: NftSetKey
    first: bytes
    last: bytes = b""


class NftElement(Value, frozen=True, gc=False):
    """An element of a set."""

    key: NftElementKey


IFNAMSIZ = 16


def packed_port(protocol: int, port: int) -> bytes:
    """A key of the types inet_proto . inet_service; every part fills whole registers of four bytes."""
    return bytes((protocol, 0, 0, 0)) + port.to_bytes(2, "big") + b"\0\0"


def packed_link(name: str) -> bytes:
    """A key of the type ifname."""
    return name.encode().ljust(IFNAMSIZ, b"\0")


class NftChainKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A chain by name."""

    family: NftFamily
    name: str


class BaseHook(Value, frozen=True, gc=False):
    """Where the kernel calls a chain: hook by its nft name, and priority; lower ones come first.

    What no rule of the chain decides is accepted. `accepts` is False only in what a driver reads.
    """

    hook: str
    priority: int
    accepts: bool = True


class NftChain(Value, frozen=True, gc=False, eq=False):
    """A chain with all its rules in order. Equal by key, hook and tag: the kernel keeps those, not texts.

    `fallback` are the rules that stand in when the kernel refuses those meant; None leaves the chain as it is, and what
    newly refers to it out. `spares` are tried before that.
    """

    key: NftChainKey
    tag: bytes
    """As `chain_tag` makes it."""
    rules: tuple[str, ...] = ()
    hook: BaseHook | None = None
    fallback: tuple[str, ...] | None = None
    spares: Spares = ()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NftChain) and self.key == other.key and self.tag == other.tag and self.hook == other.hook
        )

    def __ne__(self, other: object) -> bool:
        # The base class brings an inequality of its own, so the default negation of __eq__ does not apply.
        return not self == other

    def __hash__(self) -> int:
        return hash((self.key, self.tag, self.hook))


def make_nft_chain(
    key: NftChainKey,
    rules: tuple[str, ...],
    *,
    hook: BaseHook | None = None,
    fallback: tuple[str, ...] | None = None,
    spares: Spares = (),
) -> NftChain:
    """A chain row from its rule texts."""
    return NftChain(key, chain_tag(rules), rules, hook, fallback, spares)


class NftVerdictKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A packed key in a map."""

    map: NftSetKey
    packed: bytes


class NftVerdict(Value, frozen=True, gc=False):
    """What a map says of a key: the chain to go to, or with an empty name to accept."""

    key: NftVerdictKey
    chain: str = ""


class FormerTable(Value, frozen=True, gc=False):
    """A table of ours while nftables is not in use. It is never desired, so it is removed."""

    key: NftTableKey
