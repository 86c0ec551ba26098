"""A cluster whose daemons run as a manifest says: with the capabilities that it names, and the rights that it gives."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab.test_firewall import DENY
from tests.support import rbac
from tests.support.lab import Lab, Node, netns
from tests.support.manifests import Object, containers, shipped
from tests.support.probes import Job, until

pytestmark = pytest.mark.root
MANIFEST = "generic-kuberouter-all-features-least-privilege"
DIRECT = f"{MANIFEST}-dsr"
"""What the second node is run by: direct server return enters network namespaces of pods."""
EFFECTIVE = {"node1": "0000000000013800", "node2": "0000000000293800"}
"""What the named capabilities are to the kernel, capability.h."""
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
    node.daemon_arguments += [word for word in words if not word.startswith(("--master=", "--runtime-endpoint="))]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(nodes=2, subnets=1, daemon_arguments=[f"--service-external-ip-range={VIP}/32"]) as lab:
        one, two = lab.nodes
        contain(one, MANIFEST)
        contain(two, DIRECT)
        two.start_runtime()
        netns.configure(lab.fabric.name, f"route add {VIP} via {one.ip}")
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.cni_ready() for node in lab.nodes), 60, "CNI configurations")
        lab.pod("client", "node1", labels={"app": "client"})
        web = lab.pod("web", "node2", labels={"app": "web"})
        # As strict as a distribution may have it.
        netns.sysctls(web.network, {"ipv4/conf/all/rp_filter": "1", "ipv4/conf/eth0/rp_filter": "1"})
        yield lab


def test_nothing_is_refused_to_a_daemon_with_the_named_capabilities(lab: Lab) -> None:
    """Sessions, routes, sysctls, rules and sets; whatever the kernel refuses is in the log, and makes it not ready."""
    client, web = lab.pods["default/client"], lab.pods["default/web"]
    assert until(client.prober, web.job(), lambda result: result.allowed) is not None
    for node in lab.nodes:
        assert node.daemon is not None
        status = Path(f"/proc/{node.daemon.pid}/status").read_text()
        assert f"CapEff:\t{EFFECTIVE[node.name]}" in status
        told = (node.home / "daemon.log").read_text() + (node.home / "gobgpd.log").read_text() + node.readyz()
        assert [line for line in told.splitlines() if "permitted" in line.lower() or "read-only" in line.lower()] == []
        assert "denied" not in told.lower()


def test_policies_are_enforced(lab: Lab) -> None:
    client, web = lab.pods["default/client"], lab.pods["default/web"]
    lab.apply(DENY.replace("closed", "web"))
    assert until(client.prober, web.job(), lambda result: not result.allowed) is not None
    lab.delete("NetworkPolicy", "default", "deny")
    assert until(client.prober, web.job(), lambda result: result.allowed) is not None


@pytest.mark.ipvs
@pytest.mark.dummy
@pytest.mark.ipip
def test_services_are_served_and_a_pod_is_entered_where_that_is_asked_for(lab: Lab) -> None:
    lab.apply(SHOP)
    client = lab.pods["default/client"].prober
    assert until(client, Job("tcp", "10.96.0.10", 80), lambda result: result.allowed) is not None
    assert until(lab.outside, Job("tcp", VIP, 80), lambda result: result.allowed) is not None
    lab.apply(SHOP.replace("annotations: {}", "annotations: {kube-router.io/service.dsr: tunnel}"))
    pod = lab.pods["default/web"].network
    lab.wait(lambda: VIP in shown(pod), 30, "the address in the pod")
    assert until(lab.outside, Job("tcp", VIP, 80), lambda result: result.allowed) is not None


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
