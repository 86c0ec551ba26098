"""What the CNI configuration says of this node: the ranges of its pods and their MTU."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.mtu import pod_mtu
from kuberouter.model.core import Fragment, Owner, Problem, Reason
from kuberouter.model.host import CniSettings, CniSettingsKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings


def compile_cni(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """The node's pod CIDRs, IPv4 first; without any the file is left as it is and the node has a problem."""
    del view
    if not settings.cni:
        return Fragment()
    ranges = tuple(sorted(node.pod_cidrs, key=lambda prefix: prefix.family))
    if not ranges:
        text = "the node has no pod CIDR of a family in use, so its pods get no addresses"
        return Fragment(problems=(Problem(key.subject, "spec.podCIDRs", Reason.MISSING, text),))
    return Fragment((CniSettings(CniSettingsKey(settings.cni_file), ranges, pod_mtu(node, settings)),))
