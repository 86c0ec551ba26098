"""The words that every floor uses: values, references, rows, fragments, batches, events.

Everything here is frozen and compares by type and content. Values are `msgspec` structs with `gc=False`: they never
form cycles, so the collector need not walk them.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping
from ipaddress import ip_address
from typing import Generic, Protocol, TypeVar

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of every model value: frozen, hashable, equal only to a value of the same type with equal fields."""


class KeyValue(Value, frozen=True, gc=False, cache_hash=True):
    """Base of values that serve as dictionary keys: the hash is computed once."""


class Family(enum.IntEnum):
    """Address family; the numbers are the kernel's AF_INET and AF_INET6 (linux/socket.h)."""

    IPV4 = 2
    IPV6 = 10


class L4Protocol(enum.IntEnum):
    """Layer-4 protocol; the numbers are IANA's protocol numbers."""

    TCP = 6
    UDP = 17
    SCTP = 132


def family_of(address: bytes) -> Family:
    """Family of a packed address: 4 bytes are IPv4, 16 are IPv6."""
    return _FAMILY_OF_SIZE[len(address)]


_FAMILY_OF_SIZE = {4: Family.IPV4, 16: Family.IPV6}


class Secret(str):
    """A password. Whatever prints, formats, joins or logs it gets `***`, so does what encodes it, unless it refuses to.

    Equality and hash are by content.

    To Python it is the text `***`, so that no road leads to the content but `reveal`, which only `wire/` may call.
    """

    __slots__ = ("_content",)

    def __new__(cls, content: str) -> Secret:
        made = super().__new__(cls, "***")
        object.__setattr__(made, "_content", content)
        return made

    def reveal(self) -> str:
        """The password itself."""
        content: str = object.__getattribute__(self, "_content")
        return content

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Secret cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.reveal() == other.reveal()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(("Secret", self.reveal()))

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # A copy by way of bytes has nothing to hide any more.
        return str, ("***",)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: object) -> Secret:
        return self


class Prefix(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A CIDR block: packed network address (host bits zero) and prefix length in bits."""

    address: bytes
    length: int

    @property
    def family(self) -> Family:
        return family_of(self.address)

    def covers(self, address: bytes) -> bool:
        """Whether a packed address of either family is in the block."""
        if len(address) != len(self.address):
            return False
        spare = len(address) * 8 - self.length
        return int.from_bytes(address, "big") >> spare == int.from_bytes(self.address, "big") >> spare

    def __str__(self) -> str:
        return f"{ip_address(self.address)}/{self.length}"


LINK_LOCAL: Mapping[Family, Prefix] = {
    Family.IPV4: Prefix(bytes((169, 254, 0, 0)), 16),
    Family.IPV6: Prefix(b"\xfe\x80" + bytes(14), 10),
}
"""Addresses that mean something on their link only (RFC 3927; RFC 4291, 2.5.6)."""


def is_link_local(address: bytes) -> bool:
    """Whether a packed address means something on its link only."""
    return LINK_LOCAL[family_of(address)].covers(address)


class ObjectRef(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Names one cluster object: kind (`Service`, `Pod`, ...), namespace (empty for cluster scope) and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Owner(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Who claims rows: one compiler for one subject. It is also the key by which a compiler is called.

    `part` splits a big subject into pieces that change one by one, for example the EndpointSlices of a Service.
    """

    compiler: str
    subject: ObjectRef
    part: str = ""


class Rank(Value, frozen=True, gc=False, order=True):
    """Order among owners that claim one key: the lowest wins. `level` first, then `since`, then the owner's name.

    `since` is the object's creationTimestamp in seconds since the epoch, so that the oldest object wins.
    """

    level: int = 0
    since: float = 0.0


class Reason(enum.Enum):
    """Why something the user gave could not be honoured; the text is used as Event reason and metric label."""

    MALFORMED = "Malformed"
    UNSUPPORTED = "Unsupported"
    CONFLICT = "Conflict"
    FORBIDDEN = "Forbidden"
    MISSING = "Missing"
    IGNORED = "Ignored"
    FAILED = "Failed"
    BUG = "InternalError"


class Problem(Value, frozen=True, gc=False):
    """One thing wrong with one object: which object, which field (dotted path), why, and a sentence for people."""

    owner: ObjectRef
    field: str
    reason: Reason
    message: str

    def __str__(self) -> str:
        where = f"{self.owner}: {self.field}" if self.field else str(self.owner)
        return f"{where}: {self.message}"


class Row(Protocol):
    """One thing that the daemon can own outside itself (a route, a set member, a BGP peer): a frozen value with a key.

    Two rows with the same key are two states of the same thing; equal rows need no write.
    """

    @property
    def key(self) -> Hashable: ...


R = TypeVar("R", bound=Row)


class Fragment(Value, frozen=True, gc=False):
    """What one compiler says for one owner: the rows it claims (of any types) and the problems it met."""

    rows: tuple[Row, ...] = ()
    problems: tuple[Problem, ...] = ()
    rank: Rank = Rank()


class Batch(Generic[R]):
    """A difference to write: rows to add, rows to change as (old, new), rows to remove."""

    __slots__ = ("add", "change", "remove")

    def __init__(
        self, add: tuple[R, ...] = (), change: tuple[tuple[R, R], ...] = (), remove: tuple[R, ...] = ()
    ) -> None:
        self.add = add
        self.change = change
        self.remove = remove

    def __bool__(self) -> bool:
        return bool(self.add or self.change or self.remove)

    def __len__(self) -> int:
        return len(self.add) + len(self.change) + len(self.remove)

    def __repr__(self) -> str:
        return f"Batch(add={self.add!r}, change={self.change!r}, remove={self.remove!r})"


class Outcome:
    """Result of a write. Every row of the batch that is not named in `failed` (key -> error text) was applied.

    Those named in `instead` (key -> what was lacking and what stands in for it) were applied as far as this kernel can.
    """

    __slots__ = ("failed", "instead")

    def __init__(
        self, failed: Mapping[Hashable, str] | None = None, instead: Mapping[Hashable, str] | None = None
    ) -> None:
        self.failed: Mapping[Hashable, str] = failed or {}
        self.instead: Mapping[Hashable, str] = instead or {}

    def __repr__(self) -> str:
        return f"Outcome(failed={dict(self.failed)!r}, instead={dict(self.instead)!r})"


class Unavailable(Exception):
    """A driver's counterpart is missing as a whole: a kernel module, a tool, a daemon. The text names it.

    It is the one exception that a driver may raise on purpose; the table stays not ready and is retried.
    """
