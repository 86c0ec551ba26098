"""NetworkPolicy bytes to `NetworkPolicy` (networking.k8s.io/v1).

A policy that is only in part understood still comes out, with its problems: it then closes the pods that it selects,
both ways where it does not tell which. Opening them because of a typing mistake would be worse. Of its pod selector
counts what can be understood: what is required beside it only narrows the selection, so none of its pods is left out.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kuberouter.decode.common import Bytes, Trouble, created, expressed, labelled, normal, reference, selector, struct
from kuberouter.decode.scalars import port, port_name, prefix, protocol
from kuberouter.decode.schema import (
    PolicySpec,
    PolicyTarget,
    RawEgressRule,
    RawExpression,
    RawIngressRule,
    RawNetworkPolicy,
    RawPeer,
    RawPolicyPort,
    RawPolicyTarget,
    RawRequirements,
    RawSelector,
)
from kuberouter.model.cluster import IpBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, Requirement, Selector
from kuberouter.model.core import Problem

_DECODER = msgspec.json.Decoder(RawNetworkPolicy)
_TARGET = msgspec.json.Decoder(RawPolicyTarget)
_SPEC = msgspec.json.Decoder(PolicyTarget | None)
_REQUIREMENTS = msgspec.json.Decoder(RawRequirements | None)
_LABELS = msgspec.json.Decoder(dict[str, object] | None)
_EXPRESSIONS = msgspec.json.Decoder(list[msgspec.Raw] | None)
_EXPRESSION = msgspec.json.Decoder(RawExpression)
_INGRESS = msgspec.json.Decoder(RawIngressRule)
_EGRESS = msgspec.json.Decoder(RawEgressRule)
T = TypeVar("T")
Rule = TypeVar("Rule", RawIngressRule, RawEgressRule)
TYPES = frozenset(("Ingress", "Egress"))


def decode_networkpolicy(raw: Bytes) -> tuple[NetworkPolicy | None, tuple[Problem, ...]]:
    """A NetworkPolicy, or None and problems when it is no JSON or its metadata is no object. Never raises."""
    found, problems = struct(_DECODER, raw, "NetworkPolicy")
    if found is None:
        return _closed(raw, problems)
    trouble = Trouble(reference("NetworkPolicy", found.metadata))
    pods = _pods(found.spec.pod_selector, trouble)
    when = created(found.metadata, trouble)
    types = _types(found.spec, trouble)
    ingress = _rules("spec.ingress", _INGRESS, found.spec.ingress, trouble) if "Ingress" in types else None
    egress = _rules("spec.egress", _EGRESS, found.spec.egress, trouble) if "Egress" in types else None
    found_problems = tuple(trouble.problems)
    return NetworkPolicy(trouble.ref, when, pods, ingress, egress, found_problems), found_problems


def _closed(raw: Bytes, problems: tuple[Problem, ...]) -> tuple[NetworkPolicy | None, tuple[Problem, ...]]:
    """What closes the pods that a policy selects both ways: all of its namespace if it does not tell which."""
    found, _ = struct(_TARGET, raw, "NetworkPolicy")
    if found is None:
        return None, problems
    trouble = Trouble(reference("NetworkPolicy", found.metadata))
    # If the spec as a whole is of a wrong type, that is among the problems already.
    spec = _read(_SPEC, found.spec, "spec", Trouble(trouble.ref))
    pods = _pods(spec.pod_selector, trouble) if spec is not None else Selector()
    known = (*problems, *trouble.problems)
    return NetworkPolicy(trouble.ref, 0.0, pods, (), (), known), known


def _pods(raw: msgspec.Raw, trouble: Trouble) -> Selector:
    """The pods that a policy selects, or more: what cannot be understood of its selector is left out.

    An absent selector, and one of which nothing can be understood, is all pods of the namespace.
    """
    field = "spec.podSelector"
    parts = _read(_REQUIREMENTS, raw, field, trouble) or RawRequirements()
    found: list[Requirement | None] = []
    where = f"{field}.matchLabels"
    for key, value in (_read(_LABELS, parts.match_labels, where, trouble) or {}).items():
        if value is None or isinstance(value, str):
            found.append(labelled(key, value))
        else:
            trouble.add(f"{where}[{key}]", f"{value!r} is not a text")
    where = f"{field}.matchExpressions"
    for index, each in enumerate(_read(_EXPRESSIONS, parts.match_expressions, where, trouble) or ()):
        expression = _read(_EXPRESSION, each, f"{where}[{index}]", trouble)
        found.append(trouble.value(f"{where}[{index}]", expressed, expression) if expression is not None else None)
    return normal(requirement for requirement in found if requirement is not None)


def _read(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, field: str, trouble: Trouble) -> T | None:
    """A part of a policy, or None and a problem that names where in it something is wrong."""
    try:
        return decoder.decode(raw)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        message, _, path = str(error).partition(" - at `$")
        trouble.add(field + path.rstrip("`"), message or type(error).__name__)
        return None


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
        rule = _read(decoder, raw, where, trouble)
        if rule is None:
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
