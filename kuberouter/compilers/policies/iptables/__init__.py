"""The iptables spelling: chains of the filter table and ipsets, verdicts carried by marks."""

from kuberouter.compilers.policies.iptables.fixed import (
    answers,
    cluster_addresses,
    cluster_ips,
    fixed,
    guard,
    known_only,
    node_ports,
)
from kuberouter.compilers.policies.iptables.policies import member, place, pod_set, policy

__all__ = [
    "answers",
    "cluster_addresses",
    "cluster_ips",
    "fixed",
    "guard",
    "known_only",
    "member",
    "node_ports",
    "place",
    "pod_set",
    "policy",
]
