"""Whether policy is in force for one pod: what the daemon says under `/podz`.

Nothing is kept for it: who asks has it found out, on the engine's thread, from what is claimed and not yet written.
Nearly always that is nothing. It is as far as the daemon has heard: of the cluster by its watches, of the kernel by
notices and audits.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import NamedTuple

from kuberouter.cluster.selectors import enforceable
from kuberouter.engine.dataplane import Dataplane
from kuberouter.engine.loop import Controller, Engine
from kuberouter.engine.planner import Planner
from kuberouter.model.cluster import Pod
from kuberouter.model.core import ObjectRef, Row
from kuberouter.model.netfilter import Chain, IpSet, IpSetKey, MemberKey
from kuberouter.model.nftables import NftChain, NftElementKey, NftSet

PATIENCE = 5.0
"""Seconds that who asks waits for the engine."""
MOST_SAID = 10
"""Reasons that are listed."""
IDLE_ALONE = (IpSet, Chain, NftSet, NftChain)
"""What does nothing unless something that is wanted refers to it: that it cannot be removed is no trouble here."""


class PodState(NamedTuple):
    """What is known of a pod and, if policy is its business here, of what is in the kernel for it."""

    none: str = ""
    """Why policy says nothing of it on this node; all else is empty then."""
    policies: tuple[ObjectRef, ...] = ()
    lacking: tuple[str, ...] = ()
    """What is not in force; empty if all is."""
    instead: tuple[str, ...] = ()
    """What stands in for something that this kernel cannot do."""


class PodStates:
    """Finds out about pods. All but `show` is for the engine's thread."""

    def __init__(self, engine: Engine, planner: Planner, dataplane: Dataplane, firewall: Controller) -> None:
        self._engine = engine
        self._planner = planner
        self._dataplane = dataplane
        self._firewall = firewall

    def show(self, name: str) -> tuple[int, str]:
        """HTTP status and body for a pod given as `namespace/name`."""
        space, _, pod = name.partition("/")
        try:
            state = self._engine.visit(lambda: self.look(ObjectRef("Pod", space, pod)), PATIENCE)
        except TimeoutError:
            return 503, f"{name}: not known: the daemon has been busy for {PATIENCE:g} s\n"
        return describe(name, state)

    def look(self, ref: ObjectRef) -> PodState:
        """The state of one pod."""
        cluster = self._planner.cluster
        pod, node = cluster.pod(ref), cluster.node
        if missing := sorted(self._firewall.sources - self._planner.synced):
            return PodState(lacking=("waiting for " + ", ".join(missing),))
        if pod is None or node is None or pod.node != node.name:
            return PodState("no pod of this node")
        if not enforceable(pod):
            return PodState(_exempt(pod))
        policies = sorted(cluster.matches.policies_of(ref), key=lambda policy: (policy.namespace, policy.name))
        concerned = frozenset((ref, *policies))
        return PodState(
            "",
            tuple(policies),
            tuple(self._lacking(concerned)[:MOST_SAID]),
            tuple(self._instead(concerned)[:MOST_SAID]),
        )

    def _lacking(self, concerned: frozenset[ObjectRef]) -> list[str]:
        found = [f"{count} objects are yet to be looked at"] if (count := self._planner.backlog) else []
        for row in self._firewall.tables:
            table = self._dataplane.tables[row]
            if table.error or not table.read:
                found.append(table.error or f"{row.__name__} rows not read yet")
            found += self._unwritten(row, concerned)
        return found

    def _unwritten(self, row: type[Row], concerned: frozenset[ObjectRef]) -> Iterator[str]:
        mirror, ledger = self._dataplane.tables[row].mirror, self._planner.ledgers[row]
        for key in mirror.unwritten:
            error = mirror.failures.get(key, "")
            wanted = ledger.winner(key)
            # Of a table that controllers share only what is the firewall's; what nobody wants may have been.
            if wanted is not None and self._planner.controller_of(row, key) != self._firewall.name:
                continue
            if wanted is None and error and row in IDLE_ALONE:
                continue
            if getattr(wanted, "optional", False):
                continue
            if self._concerns(row, key, error, concerned):
                what = "still there" if wanted is None else "not written yet"
                yield f"{row.__name__} {key}: {error or what}"

    def _instead(self, concerned: frozenset[ObjectRef]) -> list[str]:
        found: dict[str, None] = {}
        for row in self._firewall.tables:
            for key, text in self._dataplane.tables[row].mirror.instead.items():
                if self._concerns(row, key, "", concerned):
                    found[text] = None
        return list(found)

    def _concerns(self, row: type[Row], key: Hashable, error: str, concerned: frozenset[ObjectRef]) -> bool:
        """Whether the verdicts of a pod, with the policies that select it, depend on a row.

        What is claimed for nobody in particular, or for nobody any more, may be anybody's.
        """
        subjects = frozenset(self._planner.subjects_of(row, key, error))
        if subjects & concerned:
            return True
        if (found := _set_of(key)) is None:
            return not subjects
        # An entry of whomever, for example of a peer, concerns those whose policies ask its set.
        if self._planner.ledgers[found[0]].winner(found[1]) is None:
            return False
        users = frozenset(self._planner.subjects_of(*found))
        return bool(users & concerned) or not (users or subjects)


def _set_of(key: Hashable) -> tuple[type[Row], Hashable] | None:
    """The set of which a key is an entry, by table and key."""
    if isinstance(key, MemberKey):
        return IpSet, IpSetKey(key.set)
    return (NftSet, key.set) if isinstance(key, NftElementKey) else None


def _exempt(pod: Pod) -> str:
    if pod.host_network:
        return "no policy is about it: it has the network of the node"
    return "no policy is about it: it has ended" if pod.finished else "it has no address yet"


def describe(name: str, state: PodState) -> tuple[int, str]:
    """HTTP status and body."""
    if state.none:
        return 404, f"{name}: {state.none}\n"
    lines = [f"{name}: not in force: {text}" for text in state.lacking] or [f"{name}: in force"]
    lines += [f"instead: {text}" for text in state.instead]
    lines.append("policies: " + (", ".join(f"{ref.namespace}/{ref.name}" for ref in state.policies) or "none"))
    return 503 if state.lacking else 200, "\n".join(lines) + "\n"
