"""Two nodes with their firewalls in one cell of the matrix: put a state on them, send packets, ask the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tests.conformance.matrix import MODES, Place, Tally
from tests.conformance.oracle import Endpoint, State, Verdict, address, verdict
from tests.conformance.pipeline import Firewall
from tests.conformance.topology import PORTS, PROTOCOLS, Host, Job, Topology, pairs
from tests.conformance.vocabulary import ADDRESSES, NODES, OUTSIDE, PODS, Manifest, base, node

OPEN = "open"
TRIES = 3
"""Sweeps until a mismatch counts: a busy machine may lose a packet, a wrong verdict stays."""
Cell = tuple[Host, Host, int, str, int]


class Arena:
    """Every path that has a pod at one end at least."""

    def __init__(self, topology: Topology, place: Place) -> None:
        self.place = place
        self.topology = topology
        self._tallies: list[Tally] = []
        self._versions = MODES[place.mode]
        self._ends = {host.name: Endpoint(host.name, host.kind, host.ips) for host in topology.hosts.values()}
        expected = {**NODES, "outside": OUTSIDE, **ADDRESSES}
        assert {name: end.ips for name, end in self._ends.items()} == expected, "scenarios name other addresses"
        self._homes = {name: home for name, (home, _, _) in PODS.items()}
        cidrs = {name: topology.cidrs(name) for name in topology.nodes}
        self.base = base(expected, cidrs)
        self.nodes = [node(name, expected[name], blocks) for name, blocks in cidrs.items()]
        self._pool = ThreadPoolExecutor(len(topology.nodes))
        self._firewalls: list[Firewall] = []
        self.start()
        self._cells: list[Cell] = [
            (source, target, version, protocol, port)
            for source, target in pairs(topology.hosts.values())
            if "pod" in (source.kind, target.kind)
            for version in self._versions
            for protocol in PROTOCOLS
            for port in PORTS
        ]

    def start(self) -> None:
        """Run new firewalls, which know of the kernel only what they read."""
        names = self.topology.nodes
        self._firewalls = [
            Firewall(name, self.topology.namespace(name), self.place.backend, self._versions) for name in names
        ]

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def apply(self, state: Iterable[Manifest]) -> None:
        """Make this the cluster's state on both nodes, by the way from the one before."""
        manifests = [_narrowed(manifest, self._versions) for manifest in state]
        running = [self._pool.submit(firewall.apply, manifests) for firewall in self._firewalls]
        wait(running)
        for done in running:
            done.result()

    def sweep(self) -> dict[Cell, str]:
        """Try every path with first packets; the outcome of each."""
        self.topology.flush_connections()
        jobs: dict[str, list[Job]] = {}
        for source, target, version, protocol, port in self._cells:
            target_ip = target.ips[0 if version == 4 else 1]
            jobs.setdefault(source.name, []).append((target_ip, protocol, port))
        results = {name: iter(found) for name, found in self.topology.probe(jobs).items()}
        return {cell: next(results[cell[0].name]) for cell in self._cells}

    def echoes(self) -> set[str]:
        """Outcomes of pings on every path, of hosts that have yet to find each other's links."""
        self.topology.forget_neighbours()
        jobs: dict[str, list[Job]] = {}
        for source, target, version in dict.fromkeys(cell[:3] for cell in self._cells):
            jobs.setdefault(source.name, []).append((target.ips[0 if version == 4 else 1], "ICMP", 0))
        return {outcome for outcomes in self.topology.probe(jobs).values() for outcome in outcomes}

    def expected(self, manifests: Iterable[Manifest]) -> dict[Cell, Verdict]:
        """What the oracle says of every path."""
        state = State.of(_narrowed(manifest, self._versions) for manifest in manifests)
        ends, homes = self._ends, self._homes
        return {cell: verdict(state, ends[cell[0].name], ends[cell[1].name], *cell[2:], homes) for cell in self._cells}

    def closed(self) -> list[str]:
        """Paths that are closed though there is no policy: with such a one, blocking would prove nothing."""
        self.apply(self.base)
        for _ in range(TRIES):
            found = [_text(cell, outcome) for cell, outcome in self.sweep().items() if outcome != OPEN]
            if not found:
                break
        return found

    def tallies(self) -> list[Tally]:
        """What was counted since this was asked last."""
        tallies, self._tallies = self._tallies, []
        return tallies

    def mismatches(self, state: Sequence[Manifest]) -> list[str]:
        """The paths on which packets and oracle disagree after the change to this state."""
        self.apply(state)
        asked = self._pool.submit(self.expected, state)
        wrong = self._wrong(asked)
        expected = asked.result()
        verdicts = sum(v is not Verdict.DONT_CARE for v in expected.values())
        self._tallies.append(Tally(1, verdicts, len(wrong)))
        if not wrong:
            return []
        self.start()
        self.apply(state)
        again = self._wrong(asked)
        note = "as many" if len(again) == len(wrong) else f"{len(again)} instead of {len(wrong)}"
        found = [f"{_text(cell, outcome)}, not {expected[cell].value}" for cell, outcome in wrong.items()]
        return [f"after a fresh start: {note}", *found]

    def _wrong(self, asked: Future[dict[Cell, Verdict]]) -> Mapping[Cell, str]:
        wrong: dict[Cell, str] = {}
        for _ in range(TRIES):
            outcomes = self.sweep()
            expected = asked.result()
            wrong = {
                cell: outcome
                for cell, outcome in outcomes.items()
                if expected[cell] is not Verdict.DONT_CARE
                and (outcome == OPEN) is not (expected[cell] is Verdict.ALLOW)
            }
            if not wrong:
                break
        return wrong


def _text(cell: Cell, outcome: str) -> str:
    source, target, version, protocol, port = cell
    return f"{source.name} -> {target.name} IPv{version} {protocol}/{port}: {outcome}"


def _narrowed(manifest: Manifest, versions: Sequence[int]) -> Manifest:
    """A pod or node as it is in a cluster of these families: without addresses of the other."""
    status = manifest.get("status")
    if not status or len(versions) > 1:
        return manifest
    if manifest["kind"] == "Node":
        kept = [entry for entry in status["addresses"] if address(entry["address"]).version in versions]
        return {**manifest, "status": {**status, "addresses": kept}}
    listed = [entry["ip"] for entry in status.get("podIPs") or ()]
    listed = listed or ([status["podIP"]] if status.get("podIP") else [])
    kept = [ip for ip in listed if address(ip).version in versions]
    rest = {key: value for key, value in status.items() if key not in ("podIP", "podIPs")}
    return {**manifest, "status": {**rest, "podIP": kept[0], "podIPs": [{"ip": ip} for ip in kept]} if kept else rest}
