"""Names of kernel objects that are the same on every node; kept from the Go kube-router, runbooks look for them."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address

from kuberouter.model.core import Family

DUMMY_LINK = "kube-dummy-if"
"""Carries the service addresses."""

SERVICE_ADDRESS_SET = "kube-router-svip"
SERVICE_PORT_SET = "kube-router-svip-prt"
RESTRICTED_SET = "kube-router-svip-guarded"
"""Addresses with ports that only certain clients may reach,"""
SOURCE_SET = "kube-router-svip-sources"
"""and with which networks those are. The names begin like that of the service addresses, and so are ours."""
HAIRPIN_SET = "kube-router-hairpin"
INSIDE_SET = "kube-router-svip-inside"
"""Addresses with ports at which clients of the cluster find other endpoints, with the marks that lead to these,"""
INSIDE_PORT_SET = "kube-router-svip-nodeport"
"""and the node's own addresses with such node ports."""
LOCAL_ADDRESS_SET = "kube-router-local-ips"
SERVICES_CHAIN = "KUBE-ROUTER-SERVICES"
SOURCES_CHAIN = "KUBE-ROUTER-SOURCES"
SNAT_CHAIN = "KUBE-ROUTER-SNAT"
DIRECT_SET = "kube-router-svip-dsr"
"""IPv4 addresses from which pods answer directly. This name begins like that, too."""
DIRECT_CHAIN = "KUBE-ROUTER-DSR"
"""Marks packets to Services with direct return."""
DIRECT_ANSWERS_CHAIN = "KUBE-ROUTER-DSR-ANSWERS"
"""Looks at what pods send that answer directly."""


def set_name(name: str, family: Family) -> str:
    """The name of a set in a family: sets of IPv6 carry a prefix, for set names are shared by both families."""
    return f"inet6:{name}" if family is Family.IPV6 else name


# --- routing

BRIDGE_LINK = "kube-bridge"
"""The pods' bridge."""
TUNNEL_PREFIX = "tun-"
TUNNEL_TABLE = 77
"""Routing table with the routes to other nodes through tunnels, for packets of pods."""

POD_SUBNET_SET = "kube-router-pod-subnets"
NODE_ADDRESS_SET = "kube-router-node-ips"
PLAIN_SET = "kube-router-no-masquerade"
"""Networks outside the cluster that see pods' own addresses. With `inet6:` no set may have a longer name."""

POLICY_PREFIX = "kube_router_"
"""BGP policies are `kube_router_export<N>` and `kube_router_import<N>`."""
POD_CIDR_PREFIXES = {Family.IPV4: "podcidrdefinedset", Family.IPV6: "podcidrdefinedsetv6"}
SERVICE_PREFIXES = {Family.IPV4: "servicevipsdefinedset", Family.IPV6: "servicevipsdefinedsetv6"}
DEFAULT_ROUTE_PREFIXES = {Family.IPV4: "defaultroutedefinedset", Family.IPV6: "defaultroutedefinedsetv6"}
NODE_PEERS = {Family.IPV4: "iBGPpeerset", Family.IPV6: "iBGPpeersetv6"}
ALL_PEERS = {Family.IPV4: "allpeerset", Family.IPV6: "allpeersetv6"}
EXTERNAL_PEERS = {Family.IPV4: "externalpeerset", Family.IPV6: "externalpeersetv6"}
REJECTED_PREFIXES = {Family.IPV4: "customimportrejectdefinedset", Family.IPV6: "customimportrejectdefinedsetv6"}
ALLOWED_PREFIXES = {Family.IPV4: "importallowdefinedset", Family.IPV6: "importallowdefinedsetv6"}
IMPORT_SETS = (*REJECTED_PREFIXES.values(), *ALLOWED_PREFIXES.values())
"""With an entry of these comes or goes what was learned before."""
BGP_SETS = tuple(
    name
    for by_family in (
        POD_CIDR_PREFIXES,
        SERVICE_PREFIXES,
        DEFAULT_ROUTE_PREFIXES,
        NODE_PEERS,
        ALL_PEERS,
        EXTERNAL_PEERS,
        REJECTED_PREFIXES,
        ALLOWED_PREFIXES,
    )
    for name in by_family.values()
)


def tunnel_name(address: bytes, *, plain: bool = True) -> str:
    """The link name of the tunnel to a node: 11 hexadecimal digits of SHA-256 over the address without separators.

    Different addresses can look alike without separators (10.0.1.11 and 10.0.11.1): all but one of those are named by
    the address as it is written (`plain` False). Vector: 10.0.0.1 is tun-e443169117a.
    """
    text = str(ip_address(address))
    if plain:
        text = text.replace(".", "").replace(":", "")
    return TUNNEL_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:11]


def generated_router_id(address: bytes) -> bytes:
    """A router id made of an address of either family: FNV-1a, 32 bits, over the address's 16-byte form.

    Vectors: 10.0.0.1 gives 0.15.248.254, 2001:db8::1 gives 110.91.4.244.
    """
    value = 0x811C9DC5
    for byte in address if len(address) == 16 else bytes(10) + b"\xff\xff" + address:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value.to_bytes(4, "big")
