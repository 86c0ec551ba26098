"""Which external and load balancer addresses may be served."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from kuberouter.cluster.frontends import FrontendKind
from kuberouter.compilers.addresses import refusal
from kuberouter.decode.scalars import prefix
from kuberouter.model.settings import AddressRules

RULES = AddressRules(
    True,
    (prefix("10.96.0.0/12"), prefix("fd96::/108")),
    (prefix("198.51.100.0/24"), prefix("10.0.0.0/8")),
    (prefix("203.0.113.0/25"), prefix("2001:db8::/32")),
)


@pytest.mark.parametrize(
    ("kind", "address", "why"),
    [
        (FrontendKind.EXTERNAL, "198.51.100.7", ""),
        (FrontendKind.EXTERNAL, "10.1.2.3", ""),
        (FrontendKind.EXTERNAL, "10.96.0.10", "in the range of cluster IPs"),
        (FrontendKind.EXTERNAL, "203.0.113.7", "outside --service-external-ip-range"),
        (FrontendKind.EXTERNAL, "2001:db8::7", "outside --service-external-ip-range"),
        (FrontendKind.LOAD_BALANCER, "203.0.113.127", ""),
        (FrontendKind.LOAD_BALANCER, "203.0.113.128", "outside --loadbalancer-ip-range"),
        (FrontendKind.LOAD_BALANCER, "2001:db8::7", ""),
        (FrontendKind.CLUSTER, "192.0.2.7", ""),
        (FrontendKind.NODE_PORT, "192.0.2.7", ""),
    ],
)
def test_only_addresses_of_the_ranges_are_served(kind: FrontendKind, address: str, why: str) -> None:
    found = refusal(kind, ip_address(address).packed, RULES)
    assert (why in found) if why else not found


@pytest.mark.parametrize("kind", [FrontendKind.EXTERNAL, FrontendKind.LOAD_BALANCER])
def test_without_ranges_none_is_served_and_the_flags_are_named(kind: FrontendKind) -> None:
    text = refusal(kind, ip_address("198.51.100.7").packed, AddressRules())
    assert "--strict-external-ip-validation" in text
    assert ("--service-external-ip-range" if kind is FrontendKind.EXTERNAL else "--loadbalancer-ip-range") in text


def test_without_strictness_all_are_served_even_cluster_ips() -> None:
    rules = AddressRules(False, RULES.cluster_ranges, RULES.external_ranges)
    for address in ("10.96.0.10", "8.8.8.8", "::1"):
        assert refusal(FrontendKind.EXTERNAL, ip_address(address).packed, rules) == ""
