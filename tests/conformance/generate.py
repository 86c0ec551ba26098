"""Cluster states and edits by chance, out of alphabets so small that everything collides often.

The same seed gives the same states. `CONFORMANCE_SEED` sets another one than usual, `CONFORMANCE_SEED=new` one that
nobody has tried.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from tests.conformance.vocabulary import (
    ADDRESSES,
    ALL4,
    ALL6,
    BOTH,
    HOSTS4,
    HOSTS6,
    N1,
    N1V6,
    N2,
    N2V6,
    NODES,
    OUTSIDE,
    PODS,
    Manifest,
    block,
    both,
    container,
    host_pod,
    labels,
    namespace,
    pod,
    pods,
    policy,
    port,
    spaces,
    where,
)

T = TypeVar("T")
USUAL_SEED = 20170417
APPS, TIERS, TEAMS = ("web", "api", ""), ("front", "back"), ("red", "blue")
PORT_NAMES = ("http", "dns", "serve")
PHASES = ("Running",) * 12 + ("Pending", "Unknown", "Succeeded", "Failed")


def seed() -> int:
    """The seed of this run; a new one stays the same for this process and those that it starts."""
    wanted = os.environ.get("CONFORMANCE_SEED", "")
    if wanted == "new":
        os.environ["CONFORMANCE_SEED"] = wanted = str(int(time.time()))
    return int(wanted or USUAL_SEED)


class Drawn(NamedTuple):
    """A state of the cluster: pods by the place that they take, everything else by name."""

    spaces: Mapping[str, Manifest]
    pods: Mapping[str, Manifest]
    extras: Mapping[str, Manifest]
    """Pods that have no place of their own: in their node's network, or finished long ago."""
    policies: Mapping[tuple[str, str], Manifest]

    def manifests(self) -> list[Manifest]:
        """Everything but the nodes."""
        parts: tuple[Mapping[str, Manifest] | Mapping[tuple[str, str], Manifest], ...] = self
        return [manifest for part in parts for manifest in part.values()]


class Dice(random.Random):
    """Chance in the words of the API."""

    def often(self, chance: float) -> bool:
        return self.random() < chance

    def some(self, make: Callable[[], T], low: int, high: int) -> list[T]:
        return [make() for _ in range(self.randint(low, high))]

    def labels(self) -> dict[str, str]:
        """A pod's labels."""
        found: dict[str, str] = {}
        if self.often(0.8):
            found["app"] = self.choice(APPS)
        if self.often(0.5):
            found["tier"] = self.choice(TIERS)
        return found

    def space(self, name: str) -> Manifest:
        found: dict[str, str] = {}
        if self.often(0.7):
            found["team"] = self.choice(TEAMS)
        if self.often(0.3):
            found["app"] = self.choice(APPS)
        return namespace(name, **found)

    def containers(self) -> list[Manifest]:
        """Port names that mean other numbers in other pods."""
        taken: set[tuple[str, str]] = set()
        ports = []
        for _ in range(self.randint(0, 3)):
            name, protocol = self.choice(PORT_NAMES), self.choice(("TCP", "TCP", "UDP", "SCTP"))
            if (name, protocol) not in taken:
                taken.add((name, protocol))
                ports.append((name, self.choice((80, 81)), protocol))
        half = self.randint(0, len(ports))
        return [container(*ports[:half]), container(*ports[half:])]

    def pod(self, place: str) -> Manifest:
        """A pod at a place, mostly the one that lives there usually."""
        own, _, short = place.partition("/")
        name = place if self.often(0.8) else f"{self.choice('xyz')}/{own}{short}"
        ips = ADDRESSES[place]
        kind = self.random()
        listed: tuple[str, ...] = (
            ips[::-1] if kind < 0.1 else ips[:1] if kind < 0.17 else ips[1:] if kind < 0.24 else ips
        )
        phase = self.choice(PHASES)
        if phase == "Pending" and self.often(0.5):
            listed = ()
        return pod(name, place, labels=self.labels(), ips=listed, containers=self.containers(), phase=phase)

    def extra(self, name: str) -> Manifest:
        own = self.choice("xyz")
        if self.often(0.5):
            return host_pod(f"{own}/{name}", self.choice(("n1", "n2")), **self.labels())
        phase = self.choice(("Succeeded", "Failed"))
        return pod(f"{own}/{name}", self.choice(list(PODS)), labels=self.labels(), phase=phase)

    def term(self, keys: Sequence[tuple[str, Sequence[str]]]) -> Manifest:
        """A selector of one term."""
        key, values = self.choice(keys)
        value = self.choice(values)
        operator = self.choice(("", "", "In", "NotIn", "Exists", "DoesNotExist"))
        if not operator:
            return labels(**{key: value})
        listed = [value, *(self.sample(values, 1) if self.often(0.3) else ())]
        return where(key, operator, *(dict.fromkeys(listed) if operator in ("In", "NotIn") else ()))

    def selector(self) -> Manifest:
        """A selector of pods."""
        keys = (("app", APPS), ("tier", TIERS))
        kind = self.random()
        if kind < 0.2:
            return {}
        return both(self.term(keys), self.term(keys)) if kind < 0.4 else self.term(keys)

    def space_selector(self) -> Manifest:
        keys = (("team", TEAMS), ("app", APPS), ("kubernetes.io/metadata.name", "xyz"))
        return {} if self.often(0.25) else self.term(keys)

    def block(self) -> Manifest:
        """An ipBlock, with exceptions from inside it."""
        place = self.choice(list(PODS))
        four, six = ADDRESSES[place]
        if self.often(0.6):
            wide: tuple[str, ...] = (ALL4, HOSTS4)
            singles = (four, OUTSIDE[0], NODES["n2"][0])
            narrow = (N1, N2, f"{four}/30", f"{four}/28", *(f"{ip}/32" for ip in singles))
        else:
            wide = (ALL6, HOSTS6)
            narrow = (
                N1V6,
                N2V6,
                f"{six}/128",
                f"{six}/126",
                f"{six}/124",
                f"{OUTSIDE[1]}/128",
                f"{NODES['n1'][1]}/128",
            )
        if self.often(0.5):
            return block(self.choice(narrow))
        return block(self.choice(wide), *self.sample(narrow, self.randint(0, 3)))

    def peer(self) -> Manifest:
        kind = self.random()
        if kind < 0.25:
            return pods(self.selector())
        if kind < 0.4:
            return spaces(self.space_selector())
        return spaces(self.space_selector(), self.selector()) if kind < 0.6 else self.block()

    def port(self) -> Manifest:
        protocol = self.choice(("", "", "TCP", "UDP", "UDP", "SCTP"))
        kind = self.random()
        if kind < 0.4:
            return port(self.choice((80, 81)), protocol)
        if kind < 0.65:
            return port(self.choice((*PORT_NAMES, "nobody")), protocol)
        if kind < 0.85:
            first = self.choice((1, 79, 80, 81))
            return port(first, protocol, self.choice((81, 90, 65535)))
        return port(protocol=protocol)

    def rule(self, side: str) -> Manifest:
        found: Manifest = {}
        if self.often(0.85):
            found[side] = self.some(self.peer, 0 if self.often(0.1) else 1, 3)
        if self.often(0.55):
            found["ports"] = self.some(self.port, 0 if self.often(0.1) else 1, 3)
        return found

    def policy(self, own: str, name: str) -> Manifest:
        """A policy, of which types, rules and lists may be missing, empty or more than the types say."""
        spec: Manifest = {}
        types = self.choice((["Ingress"], ["Egress"], BOTH, BOTH, [], None))
        if types is not None:
            spec["policyTypes"] = types
        for side, peers in (("Ingress", "from"), ("Egress", "to")):
            named = side in types if types else side == "Ingress" or self.often(0.5)
            if self.often(0.9 if named else 0.1):
                spec[side.lower()] = self.some(partial(self.rule, peers), 0, 3)
        return policy(own, name, self.selector(), **spec)


def state(number: int) -> Drawn:
    """One state of the cluster."""
    return _state(Dice(number))


def drawn(number: int) -> list[Manifest]:
    """The policies of a state."""
    return list(state(number).policies.values())


def _state(dice: Dice) -> Drawn:
    places = [place for place in PODS if dice.often(0.92)]
    found = Drawn(
        {name: dice.space(name) for name in "xyz"},
        {place: dice.pod(place) for place in places},
        {name: dice.extra(name) for name in ("e1", "e2") if dice.often(0.25)},
        {},
    )
    policies = (dice.policy(dice.choice("xyz"), f"p{n}") for n in range(dice.randint(1, 6)))
    return found._replace(policies={(p["metadata"]["namespace"], p["metadata"]["name"]): p for p in policies})


def edits(number: int, steps: int) -> Iterator[tuple[str, Drawn]]:
    """A state, and what becomes of it by one edit after the other, each with a word of what was done."""
    dice = Dice(number)
    found = _state(dice)
    yield "start", found
    for _ in range(steps):
        word, found = edited(dice, found)
        yield word, found


def edited(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    """A state after one edit, or now and then after several at once."""
    word, after = dice.choice(EDITS)(dice, before)
    while dice.often(0.2):
        more, after = dice.choice(EDITS)(dice, after)
        word += f", {more}"
    return word, after


def _policy_added(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    key = (dice.choice("xyz"), f"p{dice.randrange(8)}")
    word = "changed" if key in before.policies else "added"
    changed = {**before.policies, key: dice.policy(*key)}
    return f"policy {'/'.join(key)} {word}", before._replace(policies=changed)


def _policy_removed(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    if not before.policies:
        return _policy_added(dice, before)
    key = dice.choice(sorted(before.policies))
    left = {k: p for k, p in before.policies.items() if k != key}
    return f"policy {'/'.join(key)} removed", before._replace(policies=left)


def _rules_changed(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    """Rules of one direction in another order, one less or one more: indexes shift, the rest stays."""
    if not before.policies:
        return _policy_added(dice, before)
    key = dice.choice(sorted(before.policies))
    old = before.policies[key]
    side, peers = dice.choice((("ingress", "from"), ("egress", "to")))
    rules = list(old["spec"].get(side) or ())
    if rules and dice.often(0.4):
        rules.pop(dice.randrange(len(rules)))
    else:
        rules.insert(dice.randint(0, len(rules)), dice.rule(peers))
    dice.shuffle(rules)
    changed = {**before.policies, key: {**old, "spec": {**old["spec"], side: rules}}}
    return f"{side} rules of {'/'.join(key)} changed", before._replace(policies=changed)


def _targets_changed(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    if not before.policies:
        return _policy_added(dice, before)
    key = dice.choice(sorted(before.policies))
    old = before.policies[key]
    changed = {**before.policies, key: {**old, "spec": {**old["spec"], "podSelector": dice.selector()}}}
    return f"targets of {'/'.join(key)} changed", before._replace(policies=changed)


def _pod_relabelled(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    if not before.pods:
        return _pod_replaced(dice, before)
    place = dice.choice(sorted(before.pods))
    old = before.pods[place]
    changed = {**before.pods, place: {**old, "metadata": {**old["metadata"], "labels": dice.labels()}}}
    return f"pod at {place} relabelled", before._replace(pods=changed)


def _pod_replaced(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    """A pod comes, goes, or makes room for another at the same address."""
    place = dice.choice(list(PODS))
    if place in before.pods and dice.often(0.5):
        left = {p: manifest for p, manifest in before.pods.items() if p != place}
        return f"pod at {place} gone", before._replace(pods=left)
    return f"pod at {place} new", before._replace(pods={**before.pods, place: dice.pod(place)})


def _space_relabelled(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    name = dice.choice("xyz")
    return f"namespace {name} relabelled", before._replace(spaces={**before.spaces, name: dice.space(name)})


def _extra_changed(dice: Dice, before: Drawn) -> tuple[str, Drawn]:
    name = dice.choice(("e1", "e2"))
    if name in before.extras:
        left = {n: manifest for n, manifest in before.extras.items() if n != name}
        return f"pod {name} gone", before._replace(extras=left)
    return f"pod {name} new", before._replace(extras={**before.extras, name: dice.extra(name)})


EDITS = (
    _policy_added,
    _policy_added,
    _policy_removed,
    _rules_changed,
    _rules_changed,
    _targets_changed,
    _pod_relabelled,
    _pod_relabelled,
    _pod_replaced,
    _pod_replaced,
    _space_relabelled,
    _space_relabelled,
    _extra_changed,
)
