"""The iptables spelling: chains of the filter table and ipsets, verdicts carried by marks."""

from kuberouter.compilers.policies.iptables.fixed import cluster_ips, fixed, known_only, node_ports
from kuberouter.compilers.policies.iptables.guard import answers, cluster_addresses, guard
from kuberouter.compilers.policies.iptables.names import named_set
from kuberouter.compilers.policies.iptables.policies import members, place, policy

__all__ = [
    "answers",
    "cluster_addresses",
    "cluster_ips",
    "fixed",
    "guard",
    "known_only",
    "members",
    "named_set",
    "node_ports",
    "place",
    "policy",
]
