"""Every scenario against real packets: what the oracle says of a first packet is what happens to it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kuberouter.drivers.iptables import detect_variant
from tests.conformance.conftest import COUNTS
from tests.conformance.oracle import Endpoint, State, Verdict, verdict
from tests.conformance.pipeline import Firewall
from tests.conformance.scenarios import DRAWN, PODS, WRITTEN, Manifest, base
from tests.conformance.topology import PORTS, PROTOCOLS, Host, Job, Topology, pairs

OPEN = "open"
Cell = tuple[Host, Host, int, str, int]


class Arena:
    """Two nodes with their firewalls, and every path between the hosts."""

    def __init__(self, topology: Topology, backend: str) -> None:
        self.topology = topology
        self._nodes = {name: node for name, (node, _, _) in PODS.items()}
        addresses = {name: host.ips for name, host in topology.hosts.items()}
        self.base = base(addresses, {node: topology.cidrs(node) for node in topology.nodes})
        variant = detect_variant() if backend == "iptables" else None
        self._firewalls = [Firewall(node, topology.namespace(node), variant) for node in topology.nodes]
        self._cells: list[Cell] = [
            (source, target, version, protocol, port)
            for source, target in pairs(topology.hosts.values())
            if target.kind == "pod"
            for version in (4, 6)
            for protocol in PROTOCOLS
            for port in PORTS
        ]

    def apply(self, policies: list[Manifest]) -> None:
        """Put these policies, and no others, on the cluster."""
        for firewall in self._firewalls:
            firewall.apply([*self.base, *policies])

    def sweep(self) -> dict[Cell, str]:
        """Try every path with first packets; the outcome of each."""
        self.topology.flush_connections()
        jobs: dict[str, list[Job]] = {}
        for source, target, version, protocol, port in self._cells:
            address = target.ips[0 if version == 4 else 1]
            jobs.setdefault(source.name, []).append((address, protocol, port))
        results = {name: iter(found) for name, found in self.topology.probe(jobs).items()}
        return {cell: next(results[cell[0].name]) for cell in self._cells}

    def expected(self, policies: list[Manifest]) -> dict[Cell, Verdict]:
        """What the oracle says of every path."""
        state = State.of([*self.base, *policies])
        ends = {host.name: Endpoint(host.name, host.kind, host.ips) for host in self.topology.hosts.values()}
        return {
            cell: verdict(state, ends[cell[0].name], ends[cell[1].name], *cell[2:], self._nodes) for cell in self._cells
        }


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    with Topology({name: node for name, (node, _, _) in PODS.items()}) as topology:
        yield Arena(topology, request.param)


def mismatches(arena: Arena, policies: list[Manifest]) -> list[str]:
    """The paths on which packets and oracle disagree; a path that does is tried once more."""
    expected = arena.expected(policies)
    wrong: dict[Cell, str] = {}
    for _ in range(2):
        found = arena.sweep()
        wrong = {
            cell: outcome
            for cell, outcome in found.items()
            if expected[cell] is not Verdict.DONT_CARE and (outcome == OPEN) is not (expected[cell] is Verdict.ALLOW)
        }
        if not wrong:
            break
    COUNTS["verdicts"] += sum(v is not Verdict.DONT_CARE for v in expected.values())
    COUNTS["mismatches"] += len(wrong)
    return [
        f"{source.name} -> {target.name} IPv{version} {protocol}/{port}: {outcome}, not {expected[cell].value}"
        for cell, outcome in wrong.items()
        for source, target, version, protocol, port in (cell,)
    ]


@pytest.mark.parametrize("name", [*WRITTEN, *DRAWN])
def test_packets_meet_what_the_oracle_says(arena: Arena, name: str) -> None:
    policies = {**WRITTEN, **DRAWN}[name]
    arena.apply([])
    closed = [cell for cell, outcome in arena.sweep().items() if outcome != OPEN]
    assert closed == [], "without policies every path is open, or blocking would prove nothing"
    arena.apply(policies)
    assert mismatches(arena, policies) == []


def test_an_edit_of_one_policy_after_the_other_ends_as_if_made_at_once(arena: Arena) -> None:
    policies: list[Manifest] = []
    for name in ("deny both", "policies add up", "both ends have a say", "a block with an exception"):
        added = [
            {**p, "metadata": {**p["metadata"], "name": f"{name}-{p['metadata']['name']}".replace(" ", "-")}}
            for p in WRITTEN[name]
        ]
        policies += added
        arena.apply(policies)
        assert mismatches(arena, policies) == []
    while policies:
        policies.pop(0)
        arena.apply(policies)
    assert mismatches(arena, policies) == []
