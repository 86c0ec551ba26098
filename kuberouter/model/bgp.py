"""BGP rows: what gobgpd is told. Addresses are packed bytes.

What GoBGP cannot change in place (statements, policies) has a name that follows from its content: a change is a new
row, a switched assignment, and a removal.
"""

from __future__ import annotations

import enum

from kuberouter.model.core import Family, KeyValue, Prefix, Value


class SpeakerKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """There is one speaker."""

    name: str = "global"


class Speaker(Value, frozen=True, gc=False):
    """Our BGP identity; a change of it restarts every session. `router_id` is packed IPv4, no `addresses` is all."""

    key: SpeakerKey
    asn: int
    router_id: bytes
    port: int = 179
    addresses: tuple[bytes, ...] = ()


class SetKind(enum.Enum):
    """What a defined set holds."""

    PREFIX = "prefix"
    NEIGHBOR = "neighbor"


class DefinedSetKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A defined set by kind and name."""

    kind: SetKind
    name: str


class DefinedSet(Value, frozen=True, gc=False):
    """A set that policies refer to. Its entries are rows of their own."""

    key: DefinedSetKey


class PrefixSetEntryKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One entry of a prefix set: it matches prefixes inside `prefix` of `shortest` to `longest` bits."""

    set: str
    prefix: Prefix
    shortest: int
    longest: int


class PrefixSetEntry(Value, frozen=True, gc=False):
    """An entry of a prefix set. All entries of a set are of one family."""

    key: PrefixSetEntryKey


class NeighborSetEntryKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One entry of a neighbor set: the peers whose address is inside `prefix`. An empty set would match every peer."""

    set: str
    prefix: Prefix


class NeighborSetEntry(Value, frozen=True, gc=False):
    """An entry of a neighbor set."""

    key: NeighborSetEntryKey


class StatementKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A policy statement by its name, which is never used again for other content."""

    name: str


class Statement(Value, frozen=True, gc=False):
    """Accept or reject routes that match any entry of both sets."""

    key: StatementKey
    prefix_set: str
    neighbor_set: str
    accept: bool


class PolicyKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A policy by its name, which is never used again for other content."""

    name: str


class Policy(Value, frozen=True, gc=False):
    """A policy: names of statements, the first that matches decides."""

    key: PolicyKey
    statements: tuple[str, ...]


class RouteDirection(enum.IntEnum):
    """Direction of an assignment; the numbers are those of GoBGP's PolicyDirection."""

    IMPORT = 1
    EXPORT = 2


class PolicyAssignmentKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """The global policies of one direction."""

    direction: RouteDirection


class PolicyAssignment(Value, frozen=True, gc=False):
    """Policies that judge every route of a direction, and what happens to routes that none of them decides on."""

    key: PolicyAssignmentKey
    policies: tuple[str, ...]
    accept: bool


class PeerKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A peer by its address."""

    address: bytes


class Peer(Value, frozen=True, gc=False):
    """A configured session. Any change of it tears the session down for a moment."""

    key: PeerKey
    asn: int
    local_address: bytes
    port: int = 179
    families: tuple[Family, ...] = (Family.IPV4,)


class PathKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A prefix that this node originates."""

    prefix: Prefix


class Path(Value, frozen=True, gc=False):
    """A path that this node originates."""

    key: PathKey
    next_hop: bytes


TABLES = (Speaker, DefinedSet, PrefixSetEntry, NeighborSetEntry, Statement, Policy, PolicyAssignment, Peer, Path)
"""All BGP tables, in the order in which a fresh daemon has to hear of them."""
