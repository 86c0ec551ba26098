"""A cluster whose daemons run as a manifest says: with the capabilities that it names, and the rights that it gives."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab.test_daemon import started
from tests.lab.test_firewall import DENY
from tests.support import rbac
from tests.support.lab import Lab, Node, netns
from tests.support.manifests import Object, containers, shipped
from tests.support.probes import Job, until

pytestmark = pytest.mark.root
MANIFEST = "generic-kuberouter-all-features-least-privilege"
DIRECT = f"{MANIFEST}-dsr"
"""Direct server return enters network namespaces of pods."""
USUAL, WITH_PODS = "0000000000013800", "0000000000293800"
"""What the named capabilities are to the kernel (capabilities(7)), without and with those to enter pods."""
VIP = "10.255.0.1"
CONTAINER = """
# /proc/sys as the runtime has it in a container, and the node's once more, as the manifest has it.
mkdir -p "$1"; mount --bind /proc/sys/net "$1"
mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys
shift; exec "$@"
"""
SHOP = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, creationTimestamp: "2026-01-01T00:00:00Z", annotations: {}}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  externalIPs: [10.255.0.1]
  selector: {app: web}
  ports: [{name: http, port: 80, protocol: TCP}]
"""
ODD = """
apiVersion: v1
kind: Namespace
metadata: {name: odd, annotations: {net.beta.kubernetes.io/network-policy: nonsense}}
---
apiVersion: v1
kind: Node
metadata: {name: odd, annotations: {kube-router.io/node.asn: nonsense}}
---
apiVersion: v1
kind: Pod
metadata: {name: odd, namespace: default}
spec: {nodeName: node1}
status: {phase: Running, podIP: nowhere, podIPs: [{ip: nowhere}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: odd, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 80, protocol: TCP}]
endpoints: [{addresses: [nowhere]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: odd, namespace: default}
spec: {podSelector: {matchLabels: {app: none}}, ingress: [{from: [{ipBlock: {cidr: nowhere}}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: default, annotations: {kube-router.io/service.scheduler: none-such}}
spec: {clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11], ports: [{port: 80, protocol: TCP}]}
"""
"""One object of each kind that is watched, with a mistake in it: whoever looks at the object finds an Event."""


def said(manifest: str, name: str) -> Object:
    """A container of a manifest."""
    (found,) = (each for each in containers(shipped(manifest)) if each["name"] == name)
    return found


def confined(manifest: str, name: str) -> list[str]:
    """The words that give a process the capabilities of a container, and no way to more."""
    named = said(manifest, name)["securityContext"]["capabilities"]["add"]
    bounds = ",".join(("-all", *(f"+{each.lower()}" for each in named)))
    return ["setpriv", f"--bounding-set={bounds}", "--inh-caps=-all", "--no-new-privs", "--"]


def contain(node: Node, manifest: str) -> None:
    """Have a node's processes run as in a manifest's containers."""
    net = node.home / "sysctls" / "net"
    node.daemon_container = ["sh", "-ec", CONTAINER, "container", str(net), *confined(manifest, "kube-router")]
    node.gobgpd_container = confined(manifest, "gobgpd")
    node.variables = {"KUBE_ROUTER_SYSCTL_DIR": str(net.parent)}
    words = said(manifest, "kube-router")["args"]
    # What a test gives counts, for it comes last.
    node.daemon_arguments[:0] = [word for word in words if not word.startswith(("--master=", "--runtime-endpoint="))]


def nothing_was_refused(node: Node, capabilities: str) -> None:
    """A daemon has these capabilities, and the kernel told it of none that it lacks."""
    assert node.daemon is not None
    assert f"CapEff:\t{capabilities}" in Path(f"/proc/{node.daemon.pid}/status").read_text()
    told = (node.home / "daemon.log").read_text() + node.readyz()
    assert [line for line in told.splitlines() if re.search("permitted|denied|read-only", line, re.I)] == []


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(nodes=2, subnets=1) as lab:
        for node in lab.nodes:
            contain(node, MANIFEST)
        started(lab)
        lab.pod("client", "node1", labels={"app": "client"})
        lab.pod("web", "node2", labels={"app": "web"})
        yield lab


def test_nothing_is_refused_to_a_daemon_with_the_named_capabilities(lab: Lab) -> None:
    """Sessions, routes, sysctls, rules and sets."""
    client, web = lab.pods["default/client"], lab.pods["default/web"]
    assert until(client.prober, web.job(), lambda result: result.allowed) is not None
    for node in lab.nodes:
        nothing_was_refused(node, USUAL)


def test_policies_are_enforced(lab: Lab) -> None:
    client, web = lab.pods["default/client"], lab.pods["default/web"]
    lab.apply(DENY.replace("closed", "web"))
    assert until(client.prober, web.job(), lambda result: not result.allowed) is not None
    lab.delete("NetworkPolicy", "default", "deny")
    assert until(client.prober, web.job(), lambda result: result.allowed) is not None


def test_the_roles_give_what_is_asked_for_and_nothing_else(lab: Lab) -> None:
    """Everything the API was asked for since the daemons started, with Events about every kind, told twice."""
    kinds = {"Namespace", "Node", "Pod", "EndpointSlice", "NetworkPolicy", "Service"}
    for each in yaml.safe_load_all(ODD):
        lab.store.apply(each)
    lab.wait(lambda: events(lab) >= {(kind, "odd") for kind in kinds}, 30, "Events about each kind")
    lab.node("node1").restart_daemon()
    lab.wait(lambda: any(method == "PATCH" for method, _ in lab.api.requests), 60, "an Event that is told again")
    assert rbac.used(lab.api.requests) == rbac.allowed(shipped(MANIFEST))


def events(lab: Lab) -> set[tuple[str, str]]:
    """The objects that Events are about."""
    with lab.api.store.lock:
        found = list(lab.api.store.objects["events"].values())
    return {(event["involvedObject"]["kind"], event["involvedObject"]["name"]) for event in found}


def shown(network: str) -> str:
    """The addresses in a pod's namespace."""
    words = ["ip", "-n", network, "-o", "addr"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout


@pytest.mark.ipvs
@pytest.mark.dummy
@pytest.mark.ipip
def test_services_are_served_and_a_pod_is_entered_where_that_is_asked_for() -> None:
    """The service proxy; pods are on the second node, which alone has the capabilities to enter them."""
    arguments = [f"--service-external-ip-range={VIP}/32", "--run-router=false", "--run-firewall=false"]
    with Lab(nodes=2, subnets=1, manifests=True, daemon_arguments=arguments) as lab:
        one, two = lab.nodes
        lab.wire_statically()
        contain(one, MANIFEST)
        contain(two, DIRECT)
        two.start_runtime()
        netns.configure(lab.fabric.name, f"route add {VIP} via {one.ip}")
        web = lab.pod("web", "node2", labels={"app": "web"})
        # As strict as a distribution may have it.
        netns.sysctls(web.network, {"ipv4/conf/all/rp_filter": "1", "ipv4/conf/eth0/rp_filter": "1"})
        lab.apply(SHOP)
        lab.start()
        assert until(lab.outside, Job("tcp", VIP, 80), lambda result: result.allowed, 60.0) is not None
        lab.apply(SHOP.replace("annotations: {}", "annotations: {kube-router.io/service.dsr: tunnel}"))
        lab.wait(lambda: lab.check_alive() and VIP in shown(web.network), 30, "the address in the pod")
        lab.wait(lambda: all(node.ready() for node in lab.nodes), 60, "ready daemons")
        assert until(lab.outside, Job("tcp", VIP, 80), lambda result: result.allowed) is not None
        nothing_was_refused(one, USUAL)
        nothing_was_refused(two, WITH_PODS)
