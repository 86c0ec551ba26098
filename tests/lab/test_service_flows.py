"""What becomes of open flows to Services when a policy closes them: `--netpol-existing-flows`, through IPVS.

One node judges with iptables, the other with nftables. What a policy refuses there has the endpoint's address, and the
client knows the Service's only: so it is the client's own error that counts.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import pytest

from tests.support.lab import Lab
from tests.support.lab.flows import Flow, close_all, heard
from tests.support.probes import until

pytestmark = [pytest.mark.root, pytest.mark.ipvs, pytest.mark.dummy]

ALLOWED, CLOSED = 7000, 7001
POLICY = f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: some, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  ingress: [{{ports: [{{port: {ALLOWED}}}, {{port: {ALLOWED}, protocol: UDP}}]}}]
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {node}, namespace: default, creationTimestamp: "2026-01-01T00:00:00Z"}}
spec:
  type: NodePort
  clusterIP: {vip}
  clusterIPs: [{vip}]
  selector: {{app: server, home: {node}}}
  ports:
  - {{name: a, port: 7000, nodePort: {ports[0]}, protocol: TCP}}
  - {{name: b, port: 7001, nodePort: {ports[1]}, protocol: TCP}}
  - {{name: c, port: 7000, nodePort: {ports[0]}, protocol: UDP}}
  - {{name: d, port: 7001, nodePort: {ports[1]}, protocol: UDP}}
"""
NODE_PORTS = {"node1": (30010, 30011), "node2": (30020, 30021)}
VIP = {"node1": "10.96.0.11", "node2": "10.96.0.12"}
BACKENDS = {"node1": "iptables", "node2": "nftables"}
OTHER = {"node1": "node2", "node2": "node1"}
WAYS = ("cluster IP", "node port", "node port from outside", "cluster IP on the other node")
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Key(NamedTuple):
    """A flow: the endpoint's node, how it gets there."""

    node: str
    way: str
    protocol: str
    port: int


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """An endpoint and a client on each node. Daemons and pods start at the same time: the guest is slow."""
    arguments = ["--run-router=false"]
    with Lab(nodes=2, subnets=1, manifests=True, daemon_arguments=arguments) as lab:
        for node in lab.nodes:
            nftables = str(BACKENDS[node.name] == "nftables").lower()
            node.daemon_arguments += [f"--use-nftables-for-netpol={nftables}", "--netpol-existing-flows=keep"]
            lab.apply(SERVICE.format(node=node.name, vip=VIP[node.name], ports=NODE_PORTS[node.name]))
        lab.wire_statically()
        lab.start()
        for name in VIP:
            lab.pod(f"server-{name}", name, labels={"app": "server", "home": name})
            lab.pod(f"client-{name}", name)
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 60, "ready daemons")
        lab.wait(lambda: served(lab), 30, "Services that answer")
        yield lab


@pytest.fixture(params=["keep", "cut"])
def mode(lab: Lab, request: pytest.FixtureRequest) -> None:
    flag = f"--netpol-existing-flows={request.param}"
    changed = [node for node in lab.nodes if node.daemon_arguments[-1] != flag]
    for node in changed:
        node.stop_daemon()
        node.daemon_arguments[-1] = flag
        node.start_daemon()
    if changed:
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 60, "the daemons ready")


def begun(lab: Lab, key: Key, source: tuple[str, int] | None = None) -> Flow:
    """A flow that is open."""
    client = f"default/client-{OTHER[key.node] if key.way == WAYS[3] else key.node}"
    network = lab.fabric.outside if key.way == WAYS[2] else lab.pods[client].network
    node_port = lab.node(key.node).ip, NODE_PORTS[key.node][key.port - ALLOWED]
    via = (VIP[key.node], key.port) if "cluster IP" in key.way else node_port
    server = lab.pods[f"default/server-{key.node}"]
    return Flow(network, server, KINDS[key.protocol], port=key.port, via=via, source=source)


def served(lab: Lab) -> bool:
    """Whether flows of all kinds can be opened."""
    flows: list[Flow] = []
    try:
        flows += (begun(lab, Key(node, way, p, ALLOWED)) for node in VIP for way in WAYS[1:] for p in KINDS)
    except (OSError, AssertionError):
        return False
    finally:
        close_all(flows)
    return True


@pytest.fixture
def flows(lab: Lab) -> Iterator[dict[Key, Flow]]:
    """Of all kinds, to ports that a policy will allow and close; the policy goes at the end."""
    made: dict[Key, Flow] = {}
    try:
        for key in (Key(n, way, p, port) for n in VIP for way in WAYS for p in KINDS for port in (ALLOWED, CLOSED)):
            made[key] = begun(lab, key)
        lab.apply(POLICY)
        govern(lab, closed=True)
        yield made
    finally:
        close_all(made.values())
        lab.delete("NetworkPolicy", "default", "some")
        govern(lab, closed=False)


def govern(lab: Lab, *, closed: bool) -> None:
    """Wait until the policy is in force on both nodes, or is no more."""
    for name in VIP:
        client, server = lab.pods[f"default/client-{name}"], lab.pods[f"default/server-{name}"]
        assert until(client.prober, server.job(), lambda result: result.allowed is not closed) is not None


def ended(lab: Lab, ends: Mapping[Key, socket.socket], *, speaking: bool = True) -> dict[Key, str]:
    """The errors by which these ends learn that their flows are over."""
    found: dict[Key, str] = {}

    def over() -> bool:
        for key, end in ends.items():
            if key not in found and (number := heard(end, speaking=speaking)):
                found[key] = errno.errorcode[number]
        return len(found) == len(ends)

    try:
        lab.wait(over, 10)
    except TimeoutError:
        pytest.fail(f"these have not heard of it: {sorted(ends.keys() - found.keys())}")
    return found


@pytest.mark.parametrize("mode", ["keep"], indirect=True)
@pytest.mark.usefixtures("mode")
def test_kept_flows_to_services_go_on_both_ways(flows: dict[Key, Flow]) -> None:
    for key, flow in flows.items():
        assert flow.speaks(flow.client), key
        assert flow.speaks(flow.server), key


@pytest.mark.parametrize("mode", ["cut"], indirect=True)
@pytest.mark.usefixtures("mode")
def test_cut_flows_to_services_end_for_both_and_allowed_ones_go_on(lab: Lab, flows: dict[Key, Flow]) -> None:
    closed = {key: flow for key, flow in flows.items() if key.port == CLOSED}
    sources = {key: flow.client.getsockname() for key, flow in closed.items()}
    clients = ended(lab, {key: flow.client for key, flow in closed.items()})
    assert clients == {key: "ECONNRESET" if key.protocol == "tcp" else "ECONNREFUSED" for key in closed}
    for key, name in ended(lab, {key: flow.server for key, flow in closed.items()}).items():
        assert name in (("ECONNRESET", "EPIPE") if key.protocol == "tcp" else ("ECONNREFUSED",)), key
    for key, flow in flows.items():
        if key.port == ALLOWED:
            assert flow.speaks(flow.client), key
            assert flow.speaks(flow.server), key
    lab.delete("NetworkPolicy", "default", "some")
    govern(lab, closed=False)
    for key, flow in closed.items():
        if key.protocol == "udp":
            for end in (flow.client, flow.server):
                lab.wait(partial(flow.passes, end), 10, f"{key} open again")
        else:
            # The kernel still knows the connection that this port had.
            flow.close()
            flows[key] = begun(lab, key, sources[key])


@pytest.mark.parametrize("mode", ["cut"], indirect=True)
@pytest.mark.usefixtures("mode")
def test_a_client_that_only_listens_to_a_service_is_told_too(lab: Lab, flows: dict[Key, Flow]) -> None:
    """As who watches something: all that it ever sends is acknowledgements."""
    closed = {key: flow for key, flow in flows.items() if key.port == CLOSED and key.protocol == "tcp"}
    for flow in closed.values():
        flow.server.send(b"news")
    clients = ended(lab, {key: flow.client for key, flow in closed.items()}, speaking=False)
    assert clients == dict.fromkeys(closed, "ECONNRESET")
    servers = ended(lab, {key: flow.server for key, flow in closed.items()}, speaking=False)
    assert servers == dict.fromkeys(closed, "ECONNRESET")
