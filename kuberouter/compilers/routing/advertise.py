"""What this node originates: its pod CIDRs."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import POD_CIDR_PREFIXES
from kuberouter.model.bgp import Path, PathKey, PrefixSetEntry, PrefixSetEntryKey
from kuberouter.model.core import Fragment, Owner, Row
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings


def compile_advertise(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """A path and a prefix set entry per pod CIDR, the next hop being the node's best address of its family."""
    del key, view, settings
    rows: list[Row] = []
    for prefix in node.pod_cidrs:
        next_hop = node.address(prefix.family)
        if next_hop is not None:
            entry = PrefixSetEntryKey(POD_CIDR_PREFIXES[prefix.family], prefix, prefix.length, prefix.length)
            rows += (PrefixSetEntry(entry), Path(PathKey(prefix), next_hop))
    return Fragment(tuple(rows))
