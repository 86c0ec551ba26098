"""Which kinds a daemon asks the apiserver for: those that the controllers that run need, and no other."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.lab import Lab

pytestmark = pytest.mark.root
CONTROLLERS = ("service-proxy", "router", "firewall")
SERVICES = {"/api/v1/nodes", "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"}
POLICY = {
    "/api/v1/nodes",
    "/api/v1/namespaces",
    "/api/v1/pods",
    "/api/v1/services",
    "/apis/networking.k8s.io/v1/networkpolicies",
}
OWN_PODS = "/api/v1/pods of node1"


def asked(lab: Lab, watch: bool) -> set[str]:
    """Collections that were listed, or watched."""
    found = set()
    for method, path in list(lab.api.requests):
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if method == "GET" and (query.get("watch") == "true") is watch and ("limit" in query or watch):
            fields = query.get("fieldSelector", "").replace("spec.nodeName=", " of ")
            found.add(url.path + fields)
    return found


@pytest.mark.parametrize(
    ("controllers", "more", "wanted"),
    [
        (("firewall",), (), POLICY),
        (("service-proxy",), (), SERVICES),
        (("service-proxy",), ("--ipvs-graceful-termination",), SERVICES | {"/api/v1/pods"}),
        (("service-proxy",), ("--runtime-endpoint=unix:///run/cri.sock",), SERVICES | {OWN_PODS}),
        (("router",), (), SERVICES),
        (CONTROLLERS, (), SERVICES | POLICY),
    ],
)
def test_a_daemon_watches_what_its_controllers_need(
    controllers: tuple[str, ...], more: tuple[str, ...], wanted: set[str]
) -> None:
    arguments = [f"--run-{name}={str(name in controllers).lower()}" for name in CONTROLLERS]
    with Lab(nodes=1, subnets=1, daemon_arguments=[*arguments, *more]) as lab:
        lab.start()
        lab.wait(lambda: lab.check_alive() and asked(lab, watch=True) >= wanted, 40, "watches")
        # Whatever else it might ask for would come before it has done its work, or before it knows that it cannot.
        lab.wait(lambda: lab.nodes[0].ready() or "ip_vs" in lab.nodes[0].readyz(), 40, "a verdict")
        assert asked(lab, watch=True) == wanted
        assert asked(lab, watch=False) == wanted
