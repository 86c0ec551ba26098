"""Which external or load balancer address may be served, and advertised, at all.

Whoever may write a Service can ask for any external address, another Service's or the DNS server's included, so by
default only what the administrator has set aside for the purpose is given out.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from kuberouter.cluster.frontends import FrontendKind
from kuberouter.model.core import Prefix
from kuberouter.model.settings import AddressRules

RANGE_FLAGS = {
    FrontendKind.EXTERNAL: "--service-external-ip-range",
    FrontendKind.LOAD_BALANCER: "--loadbalancer-ip-range",
}


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
