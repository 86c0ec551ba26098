"""Kernel settings that every controller needs, whichever of them run."""

from __future__ import annotations

from kuberouter.model.core import Family
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.node import NodeFacts

IPV6_OFF = SysctlKey("net/ipv6/conf/all/disable_ipv6")
"""Turns IPv6 off, or on again, for all links that there are and those to come (ip-sysctl of the kernel)."""


def family_settings(node: NodeFacts) -> tuple[Sysctl, ...]:
    """IPv6 is not turned off where the node has it; one link of which it is may stay so."""
    return (Sysctl(IPV6_OFF, "0", instead_of="1"),) if Family.IPV6 in node.families else ()
