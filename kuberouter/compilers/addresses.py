"""Which external or load balancer address may be served, and advertised, at all; and to which Service it belongs.

Whoever may write a Service can ask for any external address, another Service's or the DNS server's included, so by
default only what the administrator has set aside for the purpose is given out.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from kuberouter.cluster.frontends import Claim, FrontendKind
from kuberouter.cluster.view import ClusterView
from kuberouter.model.cluster import Service
from kuberouter.model.core import ObjectRef, Prefix
from kuberouter.model.settings import AddressRules

RANGE_FLAGS = {
    FrontendKind.EXTERNAL: "--service-external-ip-range",
    FrontendKind.LOAD_BALANCER: "--loadbalancer-ip-range",
}


_CLUSTER = FrontendKind.CLUSTER
FIELDS = {
    FrontendKind.CLUSTER: "spec.clusterIPs",
    FrontendKind.NODE_PORT: "spec.ports.nodePort",
    FrontendKind.LOAD_BALANCER: "status.loadBalancer.ingress",
    FrontendKind.EXTERNAL: "spec.externalIPs",
}
"""Where a Service asks for what it is reachable at."""


def local_only(service: Service, kind: FrontendKind) -> bool:
    """Whether endpoints of other nodes are left out where a Service is reached like this.

    The internal traffic policy governs cluster IPs, the external one everything else; an annotation goes before both.
    """
    if kind is FrontendKind.CLUSTER:
        return service.internal_local and not service.options.local
    return service.external_local or service.options.local


def holder(view: ClusterView, claim: Claim, rules: AddressRules) -> ObjectRef | None:
    """The Service that a claim belongs to: the first of those that may have it."""
    for kind, _, ref in view.frontends.claimants(claim):
        if kind is _CLUSTER or not refusal(kind, claim.address, rules):
            return ref
    return None


def refusal(kind: FrontendKind, address: bytes, rules: AddressRules) -> str:
    """Why an address must not be served as what a Service asks for, as a sentence; empty when it may.

    Cluster IPs and node ports are given out by the apiserver and never refused. Ranges of both families count together:
    with a range of one family only, the other's addresses are all refused.
    """
    if not rules.strict or kind not in RANGE_FLAGS:
        return ""
    return _refusal(kind, address, rules)


@lru_cache(maxsize=4096)
def _refusal(kind: FrontendKind, address: bytes, rules: AddressRules) -> str:
    flag = RANGE_FLAGS[kind]
    ranges = rules.external_ranges if kind is FrontendKind.EXTERNAL else rules.load_balancer_ranges
    text = ip_address(address)
    if not ranges:
        return f"{text} is not served: {flag} is not set and --strict-external-ip-validation is on"
    if _within(address, rules.cluster_ranges):
        return f"{text} is not served: it is in the range of cluster IPs (--service-cluster-ip-range)"
    if not _within(address, ranges):
        return f"{text} is not served: it is outside {flag}"
    return ""


def _within(address: bytes, ranges: Iterable[Prefix]) -> bool:
    bits = len(address) * 8
    value = int.from_bytes(address, "big")
    return any(
        len(block.address) == len(address)
        and value >> (bits - block.length) == int.from_bytes(block.address, "big") >> (bits - block.length)
        for block in ranges
    )
