"""NetworkPolicy bytes to `NetworkPolicy` (networking.k8s.io/v1).

A policy of which only the pod selector can be understood still comes out, with its problems: it then closes the pods
that it selects, both ways where it does not tell which. Opening them because of a typing mistake would be worse.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kuberouter.decode.common import Bytes, Trouble, created, reference, selector, struct
from kuberouter.decode.scalars import port, port_name, prefix, protocol
from kuberouter.decode.schema import (
    PolicySpec,
    RawEgressRule,
    RawIngressRule,
    RawNetworkPolicy,
    RawPeer,
    RawPolicyPort,
    RawPolicyTarget,
    RawSelector,
)
from kuberouter.model.cluster import IpBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, Selector
from kuberouter.model.core import Problem

_DECODER = msgspec.json.Decoder(RawNetworkPolicy)
_TARGET = msgspec.json.Decoder(RawPolicyTarget)
_INGRESS = msgspec.json.Decoder(RawIngressRule)
_EGRESS = msgspec.json.Decoder(RawEgressRule)
Rule = TypeVar("Rule", RawIngressRule, RawEgressRule)
TYPES = frozenset(("Ingress", "Egress"))


def decode_networkpolicy(raw: Bytes) -> tuple[NetworkPolicy | None, tuple[Problem, ...]]:
    """A NetworkPolicy, or None and problems when even the pods that it selects cannot be told. Never raises."""
    found, problems = struct(_DECODER, raw, "NetworkPolicy")
    if found is None:
        return _closed(raw, problems), problems
    trouble = Trouble(reference("NetworkPolicy", found.metadata))
    pods = _selector("spec.podSelector", found.spec.pod_selector or RawSelector(), trouble)
    if pods is None:
        return None, tuple(trouble.problems)
    when = created(found.metadata, trouble)
    types = _types(found.spec, trouble)
    ingress = _rules("spec.ingress", _INGRESS, found.spec.ingress, trouble) if "Ingress" in types else None
    egress = _rules("spec.egress", _EGRESS, found.spec.egress, trouble) if "Egress" in types else None
    found_problems = tuple(trouble.problems)
    return NetworkPolicy(trouble.ref, when, pods, ingress, egress, found_problems), found_problems


def _closed(raw: Bytes, problems: tuple[Problem, ...]) -> NetworkPolicy | None:
    """What closes the pods that a policy selects both ways, if at least these can be told."""
    found, _ = struct(_TARGET, raw, "NetworkPolicy")
    if found is None:
        return None
    trouble = Trouble(reference("NetworkPolicy", found.metadata))
    pods = _selector("spec.podSelector", (found.spec and found.spec.pod_selector) or RawSelector(), trouble)
    return NetworkPolicy(trouble.ref, 0.0, pods, (), (), problems) if pods is not None else None


def _types(spec: PolicySpec, trouble: Trouble) -> frozenset[str]:
    """`policyTypes`, by default Ingress, and Egress if there are egress rules; both if one is not understood."""
    if not spec.policy_types:
        return frozenset(("Ingress", "Egress") if spec.egress else ("Ingress",))
    wrong = [(index, name) for index, name in enumerate(spec.policy_types) if name not in TYPES]
    for index, name in wrong:
        trouble.add(f"spec.policyTypes[{index}]", f"{name!r} is not one of Ingress, Egress")
    return TYPES if wrong else frozenset(spec.policy_types)


def _selector(field: str, raw: RawSelector, trouble: Trouble) -> Selector | None:
    return trouble.value(field, selector, raw)


def _rules(
    field: str, decoder: msgspec.json.Decoder[Rule], raws: list[msgspec.Raw] | None, trouble: Trouble
) -> tuple[PolicyRule, ...]:
    rules: list[PolicyRule] = []
    for index, raw in enumerate(raws or ()):
        where = f"{field}[{index}]"
        try:
            rule = decoder.decode(raw)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            message, _, path = str(error).partition(" - at `$")
            trouble.add(where + path.rstrip("`"), message)
            continue
        source = "from" if isinstance(rule, RawIngressRule) else "to"
        peers = [_peer(f"{where}.{source}[{n}]", peer, trouble) for n, peer in enumerate(rule.peers or ())]
        ports = [_port(f"{where}.ports[{n}]", item, trouble) for n, item in enumerate(rule.ports or ())]
        rules.append(PolicyRule(tuple(p for p in peers if p), tuple(p for p in ports if p)))
    return tuple(rules)


def _peer(field: str, raw: RawPeer, trouble: Trouble) -> PolicyPeer | None:
    if raw.ip_block is not None:
        if raw.pod_selector is not None or raw.namespace_selector is not None:
            trouble.add(field, "ipBlock cannot stand beside a selector")
            return None
        block = trouble.value(f"{field}.ipBlock.cidr", prefix, raw.ip_block.cidr)
        excepts = trouble.values(f"{field}.ipBlock.except", prefix, raw.ip_block.excepts)
        return PolicyPeer(IpBlock(block, excepts)) if block is not None else None
    if raw.pod_selector is None and raw.namespace_selector is None:
        trouble.add(field, "a peer needs a selector or an ipBlock")
        return None
    spaces = pods = None
    if raw.namespace_selector is not None:
        spaces = _selector(f"{field}.namespaceSelector", raw.namespace_selector, trouble)
    if raw.pod_selector is not None:
        pods = _selector(f"{field}.podSelector", raw.pod_selector, trouble)
    return PolicyPeer(None, spaces, pods)


def _port(field: str, raw: RawPolicyPort, trouble: Trouble) -> PolicyPort | None:
    proto = trouble.value(f"{field}.protocol", protocol, raw.protocol or "")
    if proto is None:
        return None
    if raw.port is None:
        if raw.end_port is not None:
            trouble.add(f"{field}.endPort", "needs a numeric port")
        return PolicyPort(proto)
    if isinstance(raw.port, str):
        if raw.end_port is not None:
            trouble.add(f"{field}.endPort", "needs a numeric port")
        name = trouble.value(f"{field}.port", port_name, raw.port)
        return PolicyPort(proto, name=name) if name is not None else None
    number = trouble.value(f"{field}.port", port, raw.port)
    end = trouble.value(f"{field}.endPort", port, raw.end_port) if raw.end_port is not None else 0
    if number is None or end is None:
        return None
    if raw.end_port is not None and end < number:
        trouble.add(f"{field}.endPort", f"{end} is less than port {number}")
        return None
    return PolicyPort(proto, number, end)
