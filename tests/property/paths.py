"""The conformance runs' two nodes in memory: every path between pods, nodes and the outside host, without a kernel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from kuberouter.cluster.dependents import policies
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, ObjectRef, Row
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.settings import FirewallSettings
from tests.conformance.oracle import Endpoint, State, Verdict, verdict
from tests.conformance.vocabulary import ADDRESSES, NODES, OUTSIDE, PODS, base, key_of
from tests.property.test_policies import BACKENDS
from tests.support.verdicts import packet, verdicts
from tests.support.world import World

Manifest = dict[str, Any]
HOMES = {name: home for name, (home, _, _) in PODS.items()}
CIDRS = {node: (f"10.253.{node[1:]}.0/24", f"fd53:{node[1:]}::/64") for node in NODES}
GATEWAYS = {node: (f"10.253.{node[1:]}.1", f"fd53:{node[1:]}::1") for node in NODES}
BASE = base({**NODES, "outside": OUTSIDE, **ADDRESSES}, CIDRS)
PROBES = (("tcp", 80), ("tcp", 81), ("udp", 80), ("udp", 81), ("sctp", 80))
ENDS = {
    **{name: Endpoint(name, "node", ips) for name, ips in NODES.items()},
    "outside": Endpoint("outside", "outside", OUTSIDE),
    **{name: Endpoint(name, "pod", ips) for name, ips in ADDRESSES.items()},
}
LINKS = {name: f"e{number}" for number, name in enumerate(PODS)}


class Path(NamedTuple):
    """A first packet from one end to another."""

    source: str
    target: str
    version: int
    protocol: str
    port: int


PATHS = tuple(
    Path(source, target, version, *probe)
    for source in ENDS
    for target in ENDS
    if source != target and {source, target} & PODS.keys()
    for version in (4, 6)
    for probe in PROBES
)


class Paths:
    """What stands on both nodes after some manifests."""

    def __init__(
        self,
        backend: str,
        settings: FirewallSettings | None = None,
        drivers: Mapping[str, Mapping[type[Row], Any]] | None = None,
    ) -> None:
        """`drivers` are by node: those of a process that ran before."""
        compilers, rows = BACKENDS[backend]
        how, families = settings or FirewallSettings(), (Family.IPV4, Family.IPV6)
        self.worlds = {
            node: World([policies], compilers, how, rows, families, node=node, drivers=(drivers or {}).get(node))
            for node in NODES
        }
        self._held: dict[ObjectRef, Manifest] = {}
        for node, world in self.worlds.items():
            for pod, home in HOMES.items():
                if home == node:
                    addresses = tuple(ip_address(ip).packed for ip in ADDRESSES[pod])
                    world.put(Upserted(PodLink(ObjectRef("PodLink", "", LINKS[pod]), addresses, bridged=True)))

    def apply(self, manifests: Sequence[Manifest]) -> int:
        """Make these the cluster's objects; the number of rows that both nodes write."""
        wanted = {ObjectRef(*key_of(manifest)): manifest for manifest in manifests}
        for world in self.worlds.values():
            for ref in self._held.keys() - wanted.keys():
                world.put(Deleted(ref))
            for ref, manifest in wanted.items():
                if self._held.get(ref) != manifest:
                    world.feed(json.dumps(manifest).encode())
        self._held = wanted
        return sum(world.sync() for world in self.worlds.values())

    @property
    def rows(self) -> dict[str, dict[type[Row], dict[Any, Any]]]:
        """What each node holds."""
        return {node: {row: dict(world.table(row)) for row in world.drivers} for node, world in self.worlds.items()}

    def passing(self, paths: Iterable[Path] = PATHS) -> set[Path]:
        """The paths on which both nodes let a packet pass."""
        kernels = {node: verdicts(world, (*NODES[node], *GATEWAYS[node])) for node, world in self.worlds.items()}
        return {
            path
            for path in paths
            if all(kernels[node].passes(hook, packet(*_ends(path), *path[3:], link, bridged=bridged))
                   for node, hook, link, bridged in _steps(path))
        }  # fmt: skip


def _ends(path: Path) -> tuple[str, str]:
    source, target = ENDS[path.source].ip(path.version), ENDS[path.target].ip(path.version)
    assert source is not None
    assert target is not None
    return source, target


def _steps(path: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Where a packet is looked at: node, hook, the link that it comes in by, and whether that is a bridge's port."""
    for node in NODES:
        if path.source == node:
            yield node, "OUTPUT", "", False
            continue
        sent_here, got_here = HOMES.get(path.source) == node, node in (path.target, HOMES.get(path.target))
        if sent_here or got_here:
            hook = "INPUT" if path.target == node else "FORWARD"
            yield node, hook, LINKS[path.source] if sent_here else "eth0", sent_here


def expected(manifests: Sequence[Manifest], paths: Iterable[Path] = PATHS) -> dict[Path, Verdict]:
    """What the truth table says."""
    state = State.of(manifests)
    return {
        path: verdict(
            state, ENDS[path.source], ENDS[path.target], path.version, path.protocol.upper(), path.port, HOMES
        )
        for path in paths
    }


def mismatches(passing: set[Path], wanted: dict[Path, Verdict]) -> list[str]:
    """Where rows and table differ."""
    return [
        f"{path}: not {want.value}"
        for path, want in wanted.items()
        if want is not Verdict.DONT_CARE and (path in passing) is not (want is Verdict.ALLOW)
    ]
