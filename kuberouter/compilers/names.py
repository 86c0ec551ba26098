"""Names of kernel objects that are the same on every node; kept from the Go kube-router, runbooks look for them."""

from __future__ import annotations

from kuberouter.model.core import Family

DUMMY_LINK = "kube-dummy-if"
"""Carries the service addresses."""

SERVICE_ADDRESS_SET = "kube-router-svip"
SERVICE_PORT_SET = "kube-router-svip-prt"
LOCAL_ADDRESS_SET = "kube-router-local-ips"
SERVICES_CHAIN = "KUBE-ROUTER-SERVICES"
SNAT_CHAIN = "KUBE-ROUTER-SNAT"


def set_name(name: str, family: Family) -> str:
    """The name of a set in a family: sets of IPv6 carry a prefix, for set names are shared by both families."""
    return f"inet6:{name}" if family is Family.IPV6 else name
