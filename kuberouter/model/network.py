"""Network rows (rtnetlink(7)): links, addresses, routes, policy rules. Addresses are packed bytes."""

from __future__ import annotations

import enum

from kuberouter.model.core import Family, KeyValue, Prefix, Value

ROUTE_PROTOCOL = 17
"""rtm_protocol of every route that we install; kept from the Go kube-router so that either finds the other's."""
TABLE_MAIN = 254
TABLE_LOCAL = 255


class LinkKind(enum.Enum):
    """IFLA_INFO_KIND of the links that we make."""

    BRIDGE = "bridge"
    DUMMY = "dummy"
    IPIP = "ipip"
    IP6TNL = "ip6tnl"


class LinkKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A link by its name (at most 15 bytes)."""

    name: str


class Link(Value, frozen=True, gc=False):
    """A link that we make and keep up. `mtu` 0 leaves the MTU alone. `local`/`remote` are a tunnel's end points.

    `encap_port` is the UDP port of a tunnel whose packets travel in UDP (GUE), 0 of one whose packets are IP in IP. In
    what a driver reads `up` False is a link that somebody set down, and `encap_port` -1 an encapsulation that is not
    ours.
    """

    key: LinkKey
    kind: LinkKind
    mtu: int = 0
    local: bytes = b""
    remote: bytes = b""
    up: bool = True
    encap_port: int = 0


class FouPortKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A UDP port of a family."""

    family: Family
    port: int


class FouPort(Value, frozen=True, gc=False):
    """A UDP port at which the kernel takes packets out of UDP (foo over UDP, linux/fou.h), of the GUE variant."""

    key: FouPortKey


class BridgePortKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A link that is the port of a bridge, by its name."""

    link: str


class BridgePort(Value, frozen=True, gc=False):
    """A bridge port that sends packets back where they came from (hairpin mode). Removal leaves it as it is."""

    key: BridgePortKey


class AddressKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One address with its prefix length on one link."""

    link: str
    address: bytes
    length: int


class Address(Value, frozen=True, gc=False):
    """An address on a link of ours, with the table-local route that makes it ours.

    `source`, where given, is the preferred source of that local route, so that traffic of the node itself to the
    address does not carry the address as its source. For IPv6 the kernel's own metric-0 route wins over any other and
    has to go for this to work. `intact` is False only in what a driver reads: the address lacks its route, or the
    route its address, or the route is not marked as ours.
    """

    key: AddressKey
    source: bytes = b""
    intact: bool = True


class LocalRouteKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """An address that is the node's without being on a link."""

    address: bytes


class LocalRoute(Value, frozen=True, gc=False):
    """A route of protocol 17 in table local that makes packets to an address the node's own, on the loopback link.

    `source`, where given, is what the node's own traffic to the address carries.
    """

    key: LocalRouteKey
    source: bytes = b""


class RouteKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Destination prefix in one routing table."""

    table: int
    prefix: Prefix


class Route(Value, frozen=True, gc=False):
    """A unicast route of protocol 17: through gateways, else straight out of devices. Several share the load (ECMP).

    Both are sorted. The kernel finds the links of gateways. Only IPv4 has routes with several devices. `source` is the
    preferred source address.
    """

    key: RouteKey
    gateways: tuple[bytes, ...] = ()
    devices: tuple[str, ...] = ()
    source: bytes = b""


class PolicyRuleKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """`ip rule from SOURCE lookup TABLE`; `priority` 0 lets the kernel choose."""

    family: Family
    source: Prefix
    table: int


class PolicyRule(Value, frozen=True, gc=False):
    """A routing policy rule (fib_rules.h) of ours, recognised by its table number."""

    key: PolicyRuleKey
