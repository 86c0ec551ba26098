"""Every controller by itself turns IPv6 on where the node has it, and none where it has not, or shall not."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pytest

from kuberouter.cluster.dependents import policies, routing, services
from kuberouter.compilers import services as proxy
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.compilers.routing import COMPILERS
from kuberouter.model.core import Family
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.settings import FirewallSettings, ProxySettings, RouterSettings
from tests.property.test_policies import NFT_ROWS
from tests.property.test_policies import ROWS as POLICY_ROWS
from tests.property.test_routing import ROWS as ROUTING_ROWS
from tests.support.world import NODE, World
from tests.support.world import ROWS as PROXY_ROWS

BOTH, ONE = (Family.IPV4, Family.IPV6), (Family.IPV4,)
OFF = SysctlKey("net/ipv6/conf/all/disable_ipv6")
CONTROLLERS = {
    "router": (routing, COMPILERS, RouterSettings(), ROUTING_ROWS),
    "service-proxy": (services, proxy.COMPILERS, ProxySettings(), PROXY_ROWS),
    "firewall, iptables": (policies, IPTABLES, FirewallSettings(), POLICY_ROWS),
    "firewall, nftables": (policies, NFTABLES, FirewallSettings(), NFT_ROWS),
}


def node(addresses: Collection[str]) -> bytes:
    told = [{"type": "InternalIP", "address": address} for address in addresses]
    obj = {"kind": "Node", "metadata": {"name": NODE}, "spec": {}, "status": {"addresses": told}}
    return json.dumps(obj).encode()


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize(
    ("families", "addresses", "turned_on"),
    [
        (BOTH, ("192.0.2.1", "2001:db8::1"), True),
        (ONE, ("192.0.2.1", "2001:db8::1"), False),
        (BOTH, ("192.0.2.1",), False),
    ],
)
def test_ipv6_is_turned_on(
    controller: str, families: tuple[Family, ...], addresses: tuple[str, ...], turned_on: bool
) -> None:
    dependents, compilers, settings, rows = CONTROLLERS[controller]
    world = World([dependents], compilers, settings, rows, families)
    world.feed(node(addresses))
    world.sync()
    table: dict[Any, Sysctl] = world.table(Sysctl)
    assert table
    # Only where it is off: a link on which somebody turned it off alone is left so.
    assert table.get(OFF) == (Sysctl(OFF, "0", instead_of="1") if turned_on else None)
