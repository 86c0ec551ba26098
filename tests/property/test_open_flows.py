"""Packets of open flows on compiled rows: what becomes of a flow when policy comes to refuse it, direct or by IPVS.

A packet to a Service is in INPUT with the Service's address, then in OUTPUT with the endpoint's; the answer is
forwarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from kuberouter.model.netfilter import Chain
from kuberouter.model.nftables import NftChain
from kuberouter.model.settings import FirewallSettings
from tests.conformance.vocabulary import ADDRESSES, NODES, merged
from tests.property.paths import BASE, GATEWAYS, LINKS, Paths
from tests.property.test_policies import BACKENDS
from tests.property.test_service_paths import ALLOWED, CONFINED, DEFAULT, NODE, POD, REFUSED, service
from tests.support.verdicts import Verdicts, packet, verdicts

CUT = msgspec.structs.replace(DEFAULT, cut_flows=True)
VIPS = ("10.96.0.10", "fd96::10")


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[0, 1], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class Flow:
    """An open flow of the confined pod; its policy can come and go."""

    def __init__(self, backend: str, settings: FirewallSettings, protocol: str, version: int, endpoint: str) -> None:
        self._paths = Paths(backend, settings)
        self._protocol, self._endpoint = protocol, endpoint
        self._client, self._server = ADDRESSES[POD][version], ADDRESSES[endpoint][version]
        self._vip, self._port = VIPS[version], 8080 if protocol == "tcp" else 53
        self.kernel = self._ruled([])

    def _ruled(self, policies: Sequence[dict[str, Any]]) -> Verdicts:
        self._paths.apply(merged(BASE, [service(*VIPS), *policies]))
        return verdicts(self._paths.worlds[NODE], (*NODES[NODE], *GATEWAYS[NODE], *VIPS))

    def under(self, policies: Sequence[dict[str, Any]]) -> None:
        """From now on these policies hold; the flow's mark outlives the change."""
        mark = self.kernel.connmark
        self.kernel = self._ruled(policies)
        self.kernel.connmark = mark

    def asks(self, *, opening: bool = False) -> bool:
        """Whether a packet to the Service gets as far as IPVS."""
        return self._passes("INPUT", self._client, self._vip, self._port, POD, opening=opening)

    def arrives(self, *, opening: bool = False) -> bool:
        """Whether what IPVS has made of it is let through."""
        return self._passes("OUTPUT", self._client, self._server, 80, POD, opening=opening)

    def forwarded(self, *, opening: bool = False) -> bool:
        """Whether a packet to the endpoint itself is."""
        return self._passes("FORWARD", self._client, self._server, 80, POD, opening=opening)

    def answered(self) -> bool:
        """Whether an answer is."""
        return self._passes("FORWARD", self._server, self._client, 40000, self._endpoint, answer=True)

    def _passes(
        self, hook: str, source: str, target: str, port: int, who: str, *, opening: bool = False, answer: bool = False
    ) -> bool:
        made = packet(source, target, self._protocol, port, LINKS[who], bridged=True)
        return self.kernel.passes(hook, made._replace(known=True, answer=answer, opening=opening))


def test_tcp_to_a_service_is_reset_where_it_has_the_services_address(backend: str, version: int) -> None:
    """A reset from behind IPVS gets to no pod of a bridge."""
    flow = Flow(backend, CUT, "tcp", version, REFUSED)
    assert flow.asks()
    assert flow.arrives()
    assert flow.answered()
    flow.under([CONFINED])
    assert flow.asks()
    assert not flow.arrives()
    assert flow.kernel.refusal == "drop"
    assert flow.answered(), "a client that only listens is made to send"
    for _ in range(2):
        assert not flow.asks()
        assert flow.kernel.refusal == "reset"
        assert not flow.answered()
        assert flow.kernel.refusal == "reset"


def test_a_client_that_has_been_reset_may_use_its_port_again(backend: str, version: int) -> None:
    """The kernel may know the old connection for some time, and takes what opens the new one for a part of it."""
    flow = Flow(backend, CUT, "tcp", version, REFUSED)
    flow.under([CONFINED])
    assert not flow.arrives()
    assert not flow.asks()
    assert flow.asks(opening=True)
    assert not flow.arrives(opening=True)
    assert flow.kernel.refusal == "icmp", "whoever opens a connection does listen to that"
    flow.under([])
    assert flow.asks(opening=True)
    assert flow.arrives(opening=True)
    assert flow.answered()
    assert flow.asks()
    assert flow.arrives()


def test_udp_to_a_service_is_refused_as_long_as_policy_says_so(backend: str, version: int) -> None:
    flow = Flow(backend, CUT, "udp", version, REFUSED)
    flow.under([CONFINED])
    for _ in range(2):
        assert flow.asks()
        assert not flow.arrives()
        assert flow.kernel.refusal == "icmp"
        assert not flow.answered()
        assert flow.kernel.refusal == "icmp"
    flow.under([])
    assert flow.asks()
    assert flow.arrives()
    assert flow.answered()


def test_what_asks_no_service_is_reset_at_once(backend: str, version: int) -> None:
    flow = Flow(backend, CUT, "tcp", version, REFUSED)
    flow.under([CONFINED])
    assert not flow.forwarded()
    assert flow.kernel.refusal == "reset"
    assert not flow.answered()
    assert flow.kernel.refusal == "reset"
    assert not flow.forwarded(opening=True)
    assert flow.kernel.refusal == "icmp"
    flow.under([])
    assert flow.forwarded(opening=True)
    assert flow.answered()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_allowed_flow_goes_on(backend: str, version: int, protocol: str) -> None:
    flow = Flow(backend, CUT, protocol, version, ALLOWED)
    if protocol == "tcp":
        flow.under([CONFINED])
    for _ in range(2):
        assert flow.asks()
        assert flow.arrives()
        assert flow.answered()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_kept_flow_goes_on_and_costs_nothing(backend: str, version: int, protocol: str) -> None:
    flow = Flow(backend, DEFAULT, protocol, version, REFUSED)
    flow.under([CONFINED])
    assert flow.asks()
    assert flow.arrives()
    assert flow.forwarded()
    assert flow.answered()
    assert flow.kernel.connmark == 0


def rules(backend: str, settings: FirewallSettings, policies: int) -> list[str]:
    """All rules of a node with so many policies for a pod."""
    paths = Paths(backend, settings)
    more = [{**CONFINED, "metadata": {**CONFINED["metadata"], "name": f"p{n}"}} for n in range(policies)]
    paths.apply(merged(BASE, [service(*VIPS), *more]))
    world = paths.worlds[NODE]
    table: type[Chain] | type[NftChain] = Chain if Chain in world.drivers else NftChain
    return [rule for chain in world.table(table).values() for rule in chain.rules]


def test_only_who_asks_for_it_pays_and_the_price_is_the_same_for_any_number_of_policies(backend: str) -> None:
    words = "CONNMARK", "connmark", "ct mark"
    assert not any(word in rule for rule in rules(backend, DEFAULT, 3) for word in words)
    more = [len(rules(backend, CUT, n)) - len(rules(backend, DEFAULT, n)) for n in (0, 1, 9)]
    assert more[2] == more[1], "one rule in a profile, whatever it is made of"
    assert more[1] - more[0] == 2, "a profile for each family"
