"""The nftables spelling: tables of our own, pods dispatched by verdict maps, verdicts that are verdicts."""

from kuberouter.compilers.policies.nftables.fixed import cluster_ips, fixed, known_only, node_ports
from kuberouter.compilers.policies.nftables.guard import answers, cluster_addresses, guard
from kuberouter.compilers.policies.nftables.names import named_set
from kuberouter.compilers.policies.nftables.policies import members, place, policy

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
