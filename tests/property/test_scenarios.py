"""Scenarios with a number of their own, on compiled rows of both backends: what the rows say is what the table says.

The conformance runs put the same scenarios, and all others, before real packets.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import permutations, product

import pytest

from kuberouter.model.settings import FirewallSettings
from tests.conformance.scenarios import SERVES, WRITTEN
from tests.conformance.vocabulary import ADDRESSES, NODES, block, into, merged, policy, source
from tests.property.paths import BASE, GATEWAYS, LINKS, Paths, expected, mismatches
from tests.property.test_policies import BACKENDS
from tests.support.verdicts import Packet, packet, verdicts

RUNS = list(dict.fromkeys(name for names in SERVES.values() for name in names))
NUMBERS = {name: "+".join(number for number, names in SERVES.items() if name in names) for name in RUNS}


@pytest.fixture(scope="module", params=list(BACKENDS))
def paths(request: pytest.FixtureRequest) -> Paths:
    """Nodes that go from one scenario to the next, as under edits."""
    return Paths(request.param)


@pytest.mark.parametrize("name", RUNS, ids=[f"{NUMBERS[name]}: {name}" for name in RUNS])
def test_compiled_rows_mean_what_the_manifests_say(paths: Paths, name: str) -> None:
    manifests = merged(BASE, WRITTEN[name])
    paths.apply(manifests)
    wanted = expected(manifests)
    assert mismatches(paths.passing(), wanted) == []


DENY = [policy(own, "deny", policyTypes=["Ingress", "Egress"]) for own in "xyz"]
NEEDED = {
    4: ("icmp", (3, 8, 11)),
    # Unreachable, too big, time exceeded, parameter problem; echo; multicast listeners; neighbour discovery.
    6: ("ipv6-icmp", (1, 2, 3, 4, 128, 129, 130, 131, 132, 143, 133, 134, 135, 136)),
}


@pytest.mark.parametrize("version", NEEDED)
@pytest.mark.parametrize("backend", list(BACKENDS))
def test_icmp_that_ip_cannot_do_without_passes_before_policy(backend: str, version: int) -> None:
    """nd_always, pain 32: both directions, at every hook, and nothing beside it."""
    nodes = Paths(backend, FirewallSettings(default_deny=True, cut_flows=True))
    nodes.apply(merged(BASE, DENY))
    kernel = verdicts(nodes.worlds["n1"], (*NODES["n1"], *GATEWAYS["n1"]))
    protocol, kinds = NEEDED[version]
    for hook, (one, other) in product(("INPUT", "FORWARD", "OUTPUT"), permutations(("x/a", "y/a"))):
        ends = (ADDRESSES[one][version == 6], ADDRESSES[other][version == 6])
        for kind in range(256):
            passes = kernel.passes(hook, packet(*ends, protocol, kind, LINKS[one], bridged=True))
            assert passes is (kind in kinds), (hook, ends, kind)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_everything_of_ipv6_is_every_address(backend: str) -> None:
    """W8: unique local, link-local, translated and mapped addresses as well, allowed or excepted."""
    sources = ("2001:db8::1", "fc00::1", "fd00::1", "fe80::1", "64:ff9b::c000:201", "::ffff:192.0.2.1", "1::", "ffff::")
    nodes = Paths(backend)
    for rule, wanted in (
        (source(block("::/0")), True),
        (source(block("::/0", "::/0")), False),
        (source(block("::/0", "fc00::/7")), None),
    ):
        nodes.apply(merged(BASE, [into(rule)]))
        kernel = verdicts(nodes.worlds["n1"])
        for address in sources:
            # Only its text is that of an IPv4 address: the packet is one of IPv6.
            sent = Packet(ip_address(address).packed, ip_address(ADDRESSES["x/a"][1]).packed, "tcp", 80)
            expect = not address.startswith(("fc", "fd")) if wanted is None else wanted
            assert kernel.passes("FORWARD", sent) is expect, (rule, address)
