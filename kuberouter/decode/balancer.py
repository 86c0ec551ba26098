"""Service bytes to `BalancedService`: what the allocator of load balancer addresses has to know of a Service."""

from __future__ import annotations

import msgspec

from kuberouter.decode.annotations import SERVICE_LB_IPS
from kuberouter.decode.common import Bytes, Trouble, created, labels, reference, struct
from kuberouter.decode.scalars import address
from kuberouter.decode.schema import Json, Metadata
from kuberouter.model.balancer import BalancedService, Condition, Ingress
from kuberouter.model.core import Family, Problem, family_of

_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}


class RawIngress(Json):
    ip: str = ""
    ip_mode: str | None = None


class RawCondition(Json):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class RawBalancer(Json):
    ingress: list[msgspec.Raw] | None = None


class RawStatus(Json):
    load_balancer: RawBalancer | None = None
    conditions: list[msgspec.Raw] | None = None


class RawSpec(Json):
    type: str = ""
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    load_balancer_ip: str = msgspec.field(default="", name="loadBalancerIP")
    load_balancer_class: str | None = None
    ip_families: list[str] | None = None
    ip_family_policy: str | None = None


class RawBalanced(Json):
    metadata: Metadata
    spec: RawSpec
    status: RawStatus | None = None


_DECODER = msgspec.json.Decoder(RawBalanced)
_INGRESS = msgspec.json.Decoder(RawIngress)
_CONDITION = msgspec.json.Decoder(RawCondition)


def decode_balanced(raw: Bytes) -> tuple[BalancedService | None, tuple[Problem, ...]]:
    """A Service as the allocator sees it, or None and problems. Addresses that are none are left out. Never raises."""
    found, problems = struct(_DECODER, raw, "Service")
    if found is None:
        return None, problems
    spec, status = found.spec, found.status or RawStatus()
    trouble = Trouble(reference("Service", found.metadata))
    texts = SERVICE_LB_IPS.read(found.metadata.annotations, trouble)
    requested = texts or trouble.values("spec.loadBalancerIP", address, list(filter(None, [spec.load_balancer_ip])))
    try:
        ingress = tuple(map(_ingress, (status.load_balancer.ingress or ()) if status.load_balancer else ()))
        conditions = tuple(map(_condition, status.conditions or ()))
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        trouble.add("status", str(error))
        return None, tuple(trouble.problems)
    service = BalancedService(
        trouble.ref,
        created(found.metadata, trouble),
        found.metadata.resource_version,
        spec.type == "LoadBalancer",
        spec.load_balancer_class or "",
        _families(spec),
        spec.ip_family_policy == "RequireDualStack",
        tuple(requested),
        # What is wrong with these is told by whoever serves them.
        Trouble(trouble.ref).values("spec.externalIPs", address, spec.external_ips),
        ingress,
        conditions,
        labels(found.metadata.labels),
    )
    return service, tuple(trouble.problems)


def _families(spec: RawSpec) -> tuple[Family, ...]:
    named = tuple(dict.fromkeys(_FAMILIES[name] for name in spec.ip_families or () if name in _FAMILIES))
    if named:
        return named
    # A headless or a very old Service: the family of its cluster IP, else IPv4.
    try:
        return (family_of(address(spec.cluster_ip)),)
    except ValueError:
        return (Family.IPV4,)


def _ingress(raw: msgspec.Raw) -> Ingress:
    found = _INGRESS.decode(raw)
    try:
        # ipMode Proxy asks that traffic goes through the load balancer itself: then the address is somebody else's.
        return Ingress(address(found.ip) if found.ip_mode != "Proxy" else b"", bytes(raw))
    except ValueError:
        return Ingress(b"", bytes(raw))


def _condition(raw: msgspec.Raw) -> Condition:
    c = _CONDITION.decode(raw)
    return Condition(c.type, c.status, c.reason, c.message, c.last_transition_time or "", bytes(raw))
