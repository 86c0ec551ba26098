"""EndpointSlice bytes to `EndpointSlice` (discovery.k8s.io/v1)."""

from __future__ import annotations

from sys import intern

import msgspec

from kuberouter.decode.annotations import HEADLESS_LABEL, SERVICE_NAME_LABEL
from kuberouter.decode.common import Bytes, Trouble, reference, shared, struct
from kuberouter.decode.scalars import address, port, protocol
from kuberouter.decode.schema import Metadata, RawConditions, RawEndpointSlice, RawHints
from kuberouter.model.cluster import Endpoint, EndpointCondition, EndpointSlice, Hints, SlicePort
from kuberouter.model.core import ObjectRef, Problem, Reason

_DECODER = msgspec.json.Decoder(RawEndpointSlice)
_LENGTH = {"IPv4": 4, "IPv6": 16}
_READY, _SERVING, _TERMINATING = (int(each) for each in EndpointCondition)
_USUAL = _READY | _SERVING


def decode_endpointslice(raw: Bytes) -> tuple[EndpointSlice | None, tuple[Problem, ...]]:
    """An EndpointSlice, or None: with problems when it is malformed, without when it is none of our business.

    Slices of FQDNs and of headless marking are nobody's to proxy. One that names no Service is a slice of nobody
    without endpoints, so that the Service which it was of before loses them. Never raises.
    """
    found, problems = struct(_DECODER, raw, "EndpointSlice")
    if found is None:
        return None, problems
    trouble = Trouble(reference("EndpointSlice", found.metadata))
    service = _service(found.metadata)
    if found.address_type == "FQDN" or HEADLESS_LABEL in (found.metadata.labels or {}):
        return None, ()
    ref = ObjectRef("Service", trouble.ref.namespace, service)
    if not service:
        trouble.add("metadata.labels", f"no {SERVICE_NAME_LABEL}, so these are endpoints of no Service", Reason.MISSING)
        return EndpointSlice(trouble.ref, ref), tuple(trouble.problems)
    length = _LENGTH.get(found.address_type)
    if length is None:
        trouble.add("addressType", f"{found.address_type!r} is not one of IPv4, IPv6, FQDN", Reason.UNSUPPORTED)
        return None, tuple(trouble.problems)
    endpoints: list[Endpoint] = []
    for index, endpoint in enumerate(found.endpoints or ()):
        if not endpoint.addresses:
            trouble.add(f"endpoints[{index}].addresses", "an endpoint needs an address")
            continue
        try:
            packed = address(endpoint.addresses[0])
        except ValueError as error:
            trouble.add(f"endpoints[{index}].addresses[0]", str(error))
            continue
        if len(packed) != length:
            trouble.add(f"endpoints[{index}].addresses[0]", f"is no {found.address_type} address")
            continue
        hints = _hints(endpoint.hints) if endpoint.hints is not None else None
        endpoints.append(Endpoint(packed, _conditions(endpoint.conditions), intern(endpoint.node_name or ""), hints))
    return EndpointSlice(trouble.ref, ref, _ports(found, trouble), tuple(endpoints)), tuple(trouble.problems)


def _service(metadata: Metadata) -> str:
    labelled = (metadata.labels or {}).get(SERVICE_NAME_LABEL)
    if labelled:
        return labelled
    owners = metadata.owner_references or []
    return owners[0].name if len(owners) == 1 and owners[0].kind == "Service" else ""


def _conditions(raw: RawConditions | None) -> int:
    """Condition bits with the API's defaults: unknown is ready, serving follows ready, not terminating."""
    if raw is None:
        return _USUAL
    ready = raw.ready is not False
    serving = ready if raw.serving is None else raw.serving
    return (_READY if ready else 0) | (_SERVING if serving else 0) | (_TERMINATING if raw.terminating else 0)


def _hints(raw: RawHints) -> Hints | None:
    zones, nodes = (tuple(intern(target.name) for target in each or ()) for each in (raw.for_zones, raw.for_nodes))
    return shared(Hints(zones, nodes)) if zones or nodes else None


def _ports(found: RawEndpointSlice, trouble: Trouble) -> tuple[SlicePort, ...]:
    ports: list[SlicePort] = []
    for index, raw in enumerate(found.ports or ()):
        if raw.port is None:
            # "All ports" has a meaning for other consumers; a proxy has no port to send to.
            continue
        proto = trouble.value(f"ports[{index}].protocol", protocol, raw.protocol or "")
        number = trouble.value(f"ports[{index}].port", port, raw.port)
        if proto is not None and number is not None:
            ports.append(SlicePort(intern(raw.name or ""), proto, number))
    return tuple(ports)
