"""Who answers whom: the traffic policies of Services as a table, from rules that share no code with the compilers.

A cell is one kind of frontend, one pair of policies, one client and one state of the endpoints; its truth is the set of
endpoints that may answer, or nobody, which means that the client is refused. The rules are kube-proxy's
(CategorizeEndpoints in pkg/proxy/topology.go and the chains of pkg/proxy/iptables say the same in Go):

- the internal policy governs cluster IPs, the external one node ports, external IPs and load balancer addresses;
- a client inside the cluster is under no external policy: for it a Local one is as good as Cluster;
- ready endpoints come first, terminating ones that still serve only where nobody is ready;
- hints narrow the choice of policy Cluster if all ready endpoints have them and one is for here: nodes before zones.

`python -m tests.support.truth` prints the table that docs/service-proxy.md shows.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

HERE, ELSEWHERE = "node-1", "node-2"
ZONE, OTHER_ZONE = "zone-a", "zone-b"


class Kind(enum.Enum):
    """What a client asks for."""

    CLUSTER_IP = "cluster IP"
    NODE_PORT = "node port"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer address"


class Policy(enum.Enum):
    """A traffic policy."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Client(enum.Enum):
    """Who asks. What a pod of another node asks for its own node usually serves; here it has come to this one."""

    POD = "pod of this node"
    OTHER_POD = "pod of another node"
    NODE = "this node"
    OUTSIDE = "outside"


class Backend(NamedTuple):
    """An endpoint."""

    name: str
    here: bool
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class Scenario(NamedTuple):
    """A state of the endpoints, as it is called in the table."""

    name: str
    backends: tuple[Backend, ...]


class Cell(NamedTuple):
    """One question."""

    kind: Kind
    internal: Policy
    external: Policy
    client: Client
    scenario: Scenario


def _leaving(name: str, *, here: bool) -> Backend:
    return Backend(name, here, ready=False, terminating=True)


def _lost(name: str, *, here: bool) -> Backend:
    return Backend(name, here, ready=False, serving=False)


LOCAL, REMOTE = Backend("local", True), Backend("remote", False)
SCENARIOS = (
    Scenario("none", ()),
    Scenario("remote", (REMOTE,)),
    Scenario("local", (LOCAL,)),
    Scenario("local, remote", (LOCAL, REMOTE)),
    Scenario("neither ready", (_lost("local", here=True), _lost("remote", here=False))),
    Scenario("local not ready, remote", (_lost("local", here=True), REMOTE)),
    Scenario("local terminating, remote", (_leaving("local", here=True), REMOTE)),
    Scenario("local, remote terminating", (LOCAL, _leaving("remote", here=False))),
    Scenario("local terminating", (_leaving("local", here=True),)),
    Scenario("remote terminating", (_leaving("remote", here=False),)),
    Scenario("both terminating", (_leaving("local", here=True), _leaving("remote", here=False))),
    Scenario(
        "local and remote 1 for this zone, remote 2 for another",
        (
            Backend("local", True, zones=(ZONE,)),
            Backend("remote 1", False, zones=(ZONE,)),
            Backend("remote 2", False, zones=(OTHER_ZONE,)),
        ),
    ),
    Scenario(
        "local for another zone, remote for this zone",
        (Backend("local", True, zones=(OTHER_ZONE,)), Backend("remote", False, zones=(OTHER_ZONE, ZONE))),
    ),
    Scenario(
        "local and remote for another zone",
        (Backend("local", True, zones=(OTHER_ZONE,)), Backend("remote", False, zones=(OTHER_ZONE,))),
    ),
    Scenario("local for this zone, remote without hint", (Backend("local", True, zones=(ZONE,)), REMOTE)),
    Scenario(
        "local for this node, remote for another, both for this zone",
        (
            Backend("local", True, zones=(ZONE,), nodes=(HERE,)),
            Backend("remote", False, zones=(ZONE,), nodes=(ELSEWHERE,)),
        ),
    ),
    Scenario(
        "local for another node, remote for another, remote for this zone",
        (
            Backend("local", True, zones=(OTHER_ZONE,), nodes=(ELSEWHERE,)),
            Backend("remote", False, zones=(ZONE,), nodes=(ELSEWHERE,)),
        ),
    ),
    Scenario(
        "local terminating for this zone, remote for another zone",
        (
            Backend("local", True, ready=False, terminating=True, zones=(ZONE,)),
            Backend("remote", False, zones=(OTHER_ZONE,)),
        ),
    ),
)


def cells() -> Iterator[Cell]:
    """Every question."""
    for parts in itertools.product(Kind, Policy, Policy, Client, SCENARIOS):
        yield Cell(*parts)


def truth(cell: Cell) -> frozenset[str]:
    """Who may answer; nobody is a refusal."""
    if cell.kind is Kind.CLUSTER_IP:
        policy = cell.internal
    elif cell.client is Client.OUTSIDE:
        policy = cell.external
    else:
        policy = Policy.CLUSTER
    backends = cell.scenario.backends
    candidates = backends if policy is Policy.CLUSTER else tuple(b for b in backends if b.here)
    ready = [b for b in candidates if b.ready]
    if not ready:
        return frozenset(b.name for b in candidates if b.serving and b.terminating)
    if policy is Policy.CLUSTER:
        ready = _near(ready)
    return frozenset(b.name for b in ready)


def _near(ready: list[Backend]) -> list[Backend]:
    by_node = [b for b in ready if HERE in b.nodes]
    if by_node and all(b.nodes for b in ready):
        return by_node
    by_zone = [b for b in ready if ZONE in b.zones]
    if by_zone and all(b.zones for b in ready):
        return by_zone
    return ready


REFUSED = "refused"
INSIDE = tuple(client for client in Client if client is not Client.OUTSIDE)
OUTER = tuple(kind for kind in Kind if kind is not Kind.CLUSTER_IP)
ANYBODY = tuple(Client)
COLUMNS: tuple[tuple[str, tuple[Kind, ...], Policy, tuple[Client, ...]], ...] = (
    ("Policy Cluster", tuple(Kind), Policy.CLUSTER, ANYBODY),
    ("Cluster IP, internal policy Local", (Kind.CLUSTER_IP,), Policy.LOCAL, ANYBODY),
    ("External policy Local, asked by pods of the cluster or by this node", OUTER, Policy.LOCAL, INSIDE),
    ("External policy Local, asked from outside", OUTER, Policy.LOCAL, (Client.OUTSIDE,)),
)
"""Heading, frontends, the policy that governs these, and clients; what makes no difference shares a column."""


def table() -> str:
    """The truth in Markdown. Raises ValueError where cells that share a column differ after all."""
    head = ["Endpoints", *(heading for heading, _, _, _ in COLUMNS)]
    lines = [_row(head), _row(["---"] * len(head))]
    for scenario in SCENARIOS:
        answers = [_only(truth(cell) for cell in _alike(k, p, c, scenario)) for _, k, p, c in COLUMNS]
        lines.append(_row([scenario.name, *(", ".join(sorted(answer)) or REFUSED for answer in answers)]))
    return "\n".join((*lines, ""))


def _alike(kinds: tuple[Kind, ...], policy: Policy, clients: tuple[Client, ...], scenario: Scenario) -> Iterator[Cell]:
    for kind, other, client in itertools.product(kinds, Policy, clients):
        internal, external = (policy, other) if kind is Kind.CLUSTER_IP else (other, policy)
        yield Cell(kind, internal, external, client, scenario)


def _only(answers: Iterable[frozenset[str]]) -> frozenset[str]:
    (answer,) = set(answers)
    return answer


def _row(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


if __name__ == "__main__":
    print(table(), end="")
