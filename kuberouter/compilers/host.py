"""Kernel settings that several controllers need, whichever of them run."""

from __future__ import annotations

from kuberouter.model.core import Family
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.node import NodeFacts

IPV6_OFF = SysctlKey("net/ipv6/conf/all/disable_ipv6")
"""Turns IPv6 off, or on again, for all links that there are and those to come (ip-sysctl of the kernel)."""

HOST, ROUTER = "1", "2"
"""Who takes router advertisements (`accept_ra`): one that does not forward, or one that does as well."""


def family_settings(node: NodeFacts) -> tuple[Sysctl, ...]:
    """IPv6 is not turned off where the node has it; one link of which it is may stay so."""
    return (Sysctl(IPV6_OFF, "0", instead_of="1"),) if Family.IPV6 in node.families else ()


def advertised_routes(node: NodeFacts) -> tuple[Sysctl, ...]:
    """A host that has its IPv6 default route from router advertisements keeps it when it begins to forward.

    Without this Linux forgets such a route then, and listens no more. Where a program of the host does the listening
    (0), and where it is as it should be, it stays as it is.
    """
    if not node.uplink or Family.IPV6 not in node.families:
        return ()
    return (Sysctl(SysctlKey(f"net/ipv6/conf/{node.uplink}/accept_ra"), ROUTER, HOST, optional=True),)
