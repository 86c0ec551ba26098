"""Services and their slices from bytes: annotations, policies, ranges, hints, and all that the API may leave out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuberouter.decode.endpointslice import decode_endpointslice
from kuberouter.decode.node import decode_node
from kuberouter.decode.scalars import prefix
from kuberouter.decode.service import decode_service
from kuberouter.model.cluster import Hints, Service, ServiceOptions
from kuberouter.model.core import Problem, Reason

PREFIX = "kube-router.io/service."
SCHEDULERS = ("rr", "lc", "dh", "sh", "mh", "wrr", "wlc", "sed", "nq", "lblc", "lblcr", "fo", "ovf", "twos")


def decode(metadata: dict[str, Any] | None = None, status: Any = None, **spec: Any) -> tuple[Service, list[Problem]]:
    raw = {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", **(metadata or {})},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}], **spec},
        "status": status,
    }
    service, problems = decode_service(json.dumps(raw).encode())
    assert service is not None
    return service, list(problems)


def annotated(**values: str) -> tuple[ServiceOptions, list[Problem]]:
    notes = {PREFIX + key.replace("_", "."): value for key, value in values.items()}
    service, problems = decode({"annotations": notes})
    return service.options, problems


@pytest.mark.parametrize(
    ("notes", "options"),
    [
        ({}, ServiceOptions()),
        *(({"scheduler": name}, ServiceOptions(scheduler=name)) for name in SCHEDULERS),
        ({"scheduler": "mh", "schedflags": "flag-1, flag-2"}, ServiceOptions("mh", 0x18)),
        ({"scheduler": "sh", "schedflags": "flag-3,,"}, ServiceOptions("sh", 0x20)),
        ({"scheduler": "mh", "schedflags": ""}, ServiceOptions("mh")),
        ({"local": "true"}, ServiceOptions(local=True)),
        ({"local": "false"}, ServiceOptions()),
        ({"hairpin": ""}, ServiceOptions(hairpin=True)),
        ({"hairpin": "true", "hairpin_externalips": ""}, ServiceOptions(hairpin=True, hairpin_external=True)),
        ({"skiplbips": ""}, ServiceOptions(skip_lb_ips=True)),
        ({"dsr": "tunnel"}, ServiceOptions(dsr=True)),
        ({"advertise_clusterip": "true"}, ServiceOptions(advertise_cluster_ip=True)),
        ({"advertise_externalip": "0"}, ServiceOptions(advertise_external_ip=False)),
        ({"advertise_loadbalancerip": "T"}, ServiceOptions(advertise_load_balancer_ip=True)),
    ],
)
def test_annotations(notes: dict[str, str], options: ServiceOptions) -> None:
    assert annotated(**notes) == (options, [])


@pytest.mark.parametrize(
    ("notes", "options", "field", "reason", "said"),
    [
        ({"scheduler": "RR"}, ServiceOptions(), "scheduler", Reason.UNSUPPORTED, "'RR' is not a scheduler"),
        ({"scheduler": ""}, ServiceOptions(), "scheduler", Reason.UNSUPPORTED, "'' is not a scheduler"),
        ({"scheduler": "sh", "schedflags": "flag-4"}, ServiceOptions("sh"), "schedflags", Reason.UNSUPPORTED, "flag-4"),
        (
            {"scheduler": "mh", "schedflags": "x, flag-1,x"},
            ServiceOptions("mh", 8),
            "schedflags",
            Reason.UNSUPPORTED,
            "'x'",
        ),
        ({"schedflags": "flag-1"}, ServiceOptions(), "schedflags", Reason.IGNORED, "only the schedulers mh and sh"),
        ({"local": "yes"}, ServiceOptions(), "local", Reason.UNSUPPORTED, "'yes' is neither true nor false"),
        ({"dsr": "true"}, ServiceOptions(), "dsr", Reason.UNSUPPORTED, "'true' is not a way of direct return"),
        (
            {"advertise_externalip": "yes"},
            ServiceOptions(advertise_external_ip=False),
            "advertise.externalip",
            Reason.UNSUPPORTED,
            "'yes' is not a boolean; it counts as false",
        ),
        ({"hairpin": "false"}, ServiceOptions(hairpin=True), "hairpin", Reason.UNSUPPORTED, "counts because it is"),
    ],
)
def test_an_annotation_that_cannot_be_honoured_is_told_and_its_default_used(
    notes: dict[str, str], options: ServiceOptions, field: str, reason: Reason, said: str
) -> None:
    found, (problem,) = annotated(**notes)
    assert found == options
    assert (problem.field, problem.reason) == (f"metadata.annotations[{PREFIX}{field}]", reason)
    assert said in problem.message


def test_annotations_of_others_and_of_other_rooms_are_no_change() -> None:
    service, problems = decode({"annotations": {"example.org/hairpin": "", f"{PREFIX}advertise.podcidr": "true"}})
    assert (service.options, problems) == (ServiceOptions(), [])


def test_b26_what_old_objects_lack_has_the_meaning_that_the_api_gives_it() -> None:
    """B26: a policy, an affinity config or a slice port that was left out ended the daemon."""
    service, problems = decode(sessionAffinity="ClientIP", internalTrafficPolicy=None, externalTrafficPolicy=None)
    assert problems == []
    assert (service.internal_local, service.external_local, service.affinity_seconds) == (False, False, 10800)
    service, _ = decode(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": None}})
    assert service.affinity_seconds == 10800
    assert decode(sessionAffinity="ClientIP", sessionAffinityConfig={})[0].affinity_seconds == 10800
    assert decode(ports=None)[0].ports == ()
    assert decode(status={"loadBalancer": {}})[0].load_balancer_ips == ()


def test_b26_a_slice_without_names_numbers_or_conditions() -> None:
    """B26 again: an unnamed port is the Service's unnamed one, one without number is for others."""
    raw = {
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": None, "protocol": None, "port": 8080}, {"name": "all", "port": None}, {}],
        "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": None, "conditions": None, "hints": None}],
    }
    found, problems = decode_endpointslice(json.dumps(raw).encode())
    assert problems == ()
    assert found is not None
    assert [(p.name, p.protocol.name, p.port) for p in found.ports] == [("", "TCP", 8080)]
    (endpoint,) = found.endpoints
    assert (endpoint.conditions, endpoint.node, endpoint.hints) == (3, "", None)
    raw |= {"endpoints": None, "ports": None}
    assert decode_endpointslice(json.dumps(raw).encode())[1] == ()


@pytest.mark.parametrize(
    ("metadata", "service"),
    [
        ({"labels": {"kubernetes.io/service-name": "web"}}, "web"),
        ({"ownerReferences": [{"kind": "Service", "name": "web"}]}, "web"),
        ({"ownerReferences": [{"kind": "Service", "name": "web"}, {"kind": "Service", "name": "api"}]}, ""),
        ({"ownerReferences": [{"kind": "Deployment", "name": "web"}], "generateName": "web-"}, ""),
        ({}, ""),
    ],
)
def test_a_slice_that_names_no_service_says_so_and_has_no_endpoints(metadata: dict[str, Any], service: str) -> None:
    raw: dict[str, Any] = {
        "metadata": {"name": "web-1", "namespace": "shop", **metadata},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"]}],
    }
    found, problems = decode_endpointslice(json.dumps(raw).encode())
    assert found is not None
    assert (found.service.name, len(found.endpoints)) == (service, bool(service))
    text = (
        "EndpointSlice shop/web-1: metadata.labels: no kubernetes.io/service-name, so these are endpoints of no Service"
    )
    assert list(map(str, problems)) == ([] if service else [text])
    raw["metadata"]["labels"] = {"service.kubernetes.io/headless": ""}
    assert decode_endpointslice(json.dumps(raw).encode()) == (None, ())


def test_hints() -> None:
    hints = {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "node-1"}]}
    raw = {
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.1.0.1"], "hints": hints},
            {"addresses": ["10.1.0.2"], "hints": {"forZones": []}},
        ],
    }
    found, _ = decode_endpointslice(json.dumps(raw).encode())
    assert found is not None
    assert [e.hints for e in found.endpoints] == [Hints(("a", "b"), ("node-1",)), None]


def test_the_zone_of_a_node() -> None:
    labels = {"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r"}
    node, _ = decode_node(json.dumps({"metadata": {"name": "n", "labels": labels}}).encode())
    assert node is not None
    assert node.zone == "a"


def test_an_unknown_policy_is_told_and_counts_as_cluster() -> None:
    service, problems = decode(internalTrafficPolicy="Topology", externalTrafficPolicy="local")
    assert not service.internal_local
    assert not service.external_local
    assert [str(p.field) for p in problems] == ["spec.internalTrafficPolicy", "spec.externalTrafficPolicy"]


@pytest.mark.parametrize(
    ("given", "ranges", "problems"),
    [
        (None, None, 0),
        ([], None, 0),
        (["10.0.0.0/8", " 2001:db8::/32 ", "10.1.2.3/8"], ("10.0.0.0/8", "2001:db8::/32"), 0),
        (["10.0.0.0/8", "everybody"], ("10.0.0.0/8",), 1),
        (["everybody"], (), 1),
    ],
)
def test_source_ranges_that_cannot_be_read_let_nobody_in(given: Any, ranges: Any, problems: int) -> None:
    service, found = decode(loadBalancerSourceRanges=given)
    assert service.source_ranges == (None if ranges is None else tuple(map(prefix, ranges)))
    assert len(found) == problems


def test_load_balancer_addresses_that_are_not_for_us_to_serve() -> None:
    ingress = [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"}, {"ip": "203.0.113.3", "ipMode": "Proxy"}]
    service, problems = decode(status={"loadBalancer": {"ingress": [*ingress, {"hostname": "lb.example.org"}]}})
    assert problems == []
    assert service.load_balancer_ips == (bytes((203, 0, 113, 1)), bytes((203, 0, 113, 2)))


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName", "clusterIP": ""}, {"clusterIP": ""}])
def test_services_without_cluster_ip_are_nobodys_to_serve(spec: dict[str, Any]) -> None:
    service, _ = decode(**{"externalIPs": ["198.51.100.1"], **spec})
    assert not service.served
