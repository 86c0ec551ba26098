"""Kernel settings that IPVS and service addresses need on the node."""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.compilers.host import advertised_routes, family_settings
from kuberouter.compilers.names import BRIDGE_LINK, DUMMY_LINK
from kuberouter.model.core import Family, Row
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.ipvs import IpvsTimeout, IpvsTimeoutKey, Timer
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings

SYSCTLS = (
    ("net/ipv4/vs/conntrack", "1"),  # SNAT and firewalls that drop INVALID see IPVS flows only so
    ("net/ipv4/vs/expire_nodest_conn", "1"),  # flows of a removed endpoint move instead of hanging
    ("net/ipv4/ip_forward", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),  # replies of a pod to a pod of the same bridge meet IPVS only so
)
SYSCTLS_V6 = (("net/ipv6/conf/all/forwarding", "1"), ("net/bridge/bridge-nf-call-ip6tables", "1"))
OPTIONAL = (
    ("net/ipv4/vs/expire_quiescent_template", "1"),  # session affinity lets go of an endpoint that drains
    ("net/ipv4/conf/all/arp_ignore", "1"),  # service addresses are routed to, never asked for by ARP
    ("net/ipv4/conf/all/arp_announce", "2"),
)
STRICT, LOOSE = "1", "2"
"""Reverse path filters (RFC 3704): a strict one drops what comes in by another way than its answer goes out."""


def kernel_rows(node: NodeFacts, settings: ProxySettings) -> Iterator[Row]:
    """Sysctls and IPVS timers. All families share one IPVS, so its settings do not depend on them."""
    for path, value in SYSCTLS:
        yield Sysctl(SysctlKey(path), value)
    for path, value in (*OPTIONAL, ("net/ipv4/vs/conn_reuse_mode", str(settings.reuse_mode))):
        yield Sysctl(SysctlKey(path), value, optional=True)
    if Family.IPV4 in node.families:
        for link in dict.fromkeys(("all", BRIDGE_LINK, DUMMY_LINK, node.uplink)):
            if link:
                yield Sysctl(SysctlKey(f"net/ipv4/conf/{link}/rp_filter"), LOOSE, STRICT, optional=True)
    yield from family_settings(node)
    yield from advertised_routes(node)
    if Family.IPV6 in node.families:
        for path, value in SYSCTLS_V6:
            yield Sysctl(SysctlKey(path), value)
    for timer, seconds in (
        (Timer.TCP, settings.tcp_timeout),
        (Timer.TCP_FIN, settings.tcp_fin_timeout),
        (Timer.UDP, settings.udp_timeout),
    ):
        if seconds:
            yield IpvsTimeout(IpvsTimeoutKey(timer), seconds)
