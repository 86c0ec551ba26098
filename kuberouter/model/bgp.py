"""BGP rows: what gobgpd is told. Addresses are packed bytes.

What GoBGP cannot change in place (statements, policies) has a name that follows from its content: a change is a new
row, a switched assignment, and a removal.
"""

from __future__ import annotations

import enum
from ipaddress import ip_address

from kuberouter.model.core import Family, KeyValue, Prefix, Secret, Value


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
    multipath: bool = True
    """Several paths to a prefix that are equally good are all taken, and told of."""


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


class Prepend(KeyValue, frozen=True, gc=False, cache_hash=True):
    """An AS number that is put before the AS path so many times."""

    asn: int
    repeat: int


class Statement(Value, frozen=True, gc=False):
    """Accept or reject routes that match any entry of both sets; what is accepted may be changed on its way out."""

    key: StatementKey
    prefix_set: str
    """Empty: any prefix."""
    neighbor_set: str
    """Empty: any peer. GoBGP walks over a set of peers for each route and peer that it judges."""
    accept: bool
    prepend: Prepend | None = None
    next_hop_self: bool = False
    communities: tuple[int, ...] = ()
    """Communities that are added (RFC 1997), as numbers of 32 bits, sorted and each once."""
    internal: bool = False
    """Only routes that peers of our own AS number have told."""


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

    def __str__(self) -> str:
        return str(ip_address(self.address))


DEFAULT_PORT = 179
DEFAULT_HOLD_TIME = 90
"""Seconds; what GoBGP proposes where nothing else is asked for."""


class Bfd(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Bidirectional forwarding detection with a peer (RFC 5880). Intervals are milliseconds."""

    port: int = 3784
    multiplier: int = 3
    send_interval: int = 1000
    """DesiredMinTxInterval."""
    receive_interval: int = 1000
    """RequiredMinRxInterval."""


class Peer(Value, frozen=True, gc=False):
    """A configured session. Any change of it tears the session down for a moment."""

    key: PeerKey
    asn: int
    """0: whatever number it has."""
    local_address: bytes
    port: int = DEFAULT_PORT
    families: tuple[Family, ...] = (Family.IPV4,)
    hold_time: int = DEFAULT_HOLD_TIME
    """Seconds that we propose."""
    password: Secret | None = None
    """TCP MD5 (RFC 2385)."""
    multihop_ttl: int = 0
    """Hops that an external peer may be away; 0 and 1 are a neighbour on the wire."""
    restart_time: int = 0
    """Seconds that the peer keeps our routes while we restart (RFC 4724); 0 is no graceful restart."""
    deferral_time: int = 0
    """Most seconds that we wait, after a restart of ours, for what peers have to tell before we tell anything."""
    reflector_cluster: bytes = b""
    """Packed cluster id (RFC 4456) under which routes are reflected to and from this peer; empty: it is no client."""
    passive: bool = False
    """The peer dials, we only listen."""
    bfd: Bfd | None = None

    @property
    def spares(self) -> tuple[str, ...]:
        """What the session can do without where gobgpd has no such thing."""
        return ("bfd",) if self.bfd is not None else ()


class PathKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A prefix that this node originates."""

    prefix: Prefix

    def __str__(self) -> str:
        return str(self.prefix)


class Path(Value, frozen=True, gc=False):
    """A path that this node originates."""

    key: PathKey
    next_hop: bytes


TABLES = (Speaker, DefinedSet, PrefixSetEntry, NeighborSetEntry, Statement, Policy, PolicyAssignment, Path, Peer)
"""All BGP tables, in the order in which a fresh daemon has to hear of them."""


# --- what users ask for


class PeerSpec(Value, frozen=True, gc=False):
    """A peer outside the cluster, as flags or an annotation of a Node name it."""

    address: bytes
    asn: int
    port: int = DEFAULT_PORT
    local_address: bytes = b""
    """Empty: the node's primary address."""
    password: Secret | None = None
    bfd: Bfd | None = None


class Reflector(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A node's part in route reflection (RFC 4456): it serves a cluster, packed id, or is one of its clients."""

    cluster: bytes
    server: bool = False


class NodeBgp(Value, frozen=True, gc=False):
    """The `kube-router.io/*` annotations of a Node about BGP, typed."""

    asn: int = 0
    """`node.asn`; 0 is none."""
    reflector: Reflector | None = None
    prepend: Prepend | None = None
    communities: tuple[int, ...] = ()
    """Sorted, each once."""
    import_reject: tuple[Prefix, ...] = ()
    local_addresses: tuple[bytes, ...] = ()
    """Addresses to listen on; empty: the node's best one per family."""
    peers: tuple[PeerSpec, ...] | None = None
    """Peers outside the cluster; None where no annotation speaks of them."""
    unreadable: tuple[str, ...] = ()
    """Fields whose annotation cannot be used: in them the last good value stays (`cluster/store.py`)."""
