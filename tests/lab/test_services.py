"""Services through the whole daemon: cluster IPs and node ports, real sockets, endpoints that come and go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.lab import Lab
from tests.support.probes import PATIENCE, Job, Prober

pytestmark = [pytest.mark.ipvs, pytest.mark.dummy]

SHOP = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 80, nodePort: 30080, protocol: TCP}
  - {name: dns, port: 53, targetPort: 80, nodePort: 30053, protocol: UDP}
"""
VIP = "10.96.0.10"
METRICS_PORT = 9464
AUDIT = 5.0
"""Seconds between audits on the second node."""
PROMISE = 1.0
"""Seconds within which what the kernel tells of is mended."""
SLOW = 2.0
"""Seconds for a probe: the guest emulates its processor."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes with the service proxy only, over static routes; a backend on each and a client on the first."""
    arguments = ["--run-router=false", "--run-firewall=false", f"--metrics-port={METRICS_PORT}"]
    # From manifests: a daemon without the apiserver client starts much faster where the processor is emulated.
    with Lab(nodes=2, subnets=1, manifests=True, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        # Here audits come often, on the first node none does while the tests run.
        lab.node("node2").daemon_arguments.append(f"--ipvs-sync-period={AUDIT:g}s")
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 60, "ready daemons")
        lab.pod("web1", "node1", labels={"app": "web"})
        lab.pod("web2", "node2", labels={"app": "web"})
        lab.pod("client", "node1", labels={"app": "client"})
        lab.apply(SHOP)
        client = lab.pods["default/client"].prober
        lab.wait(lambda: len(servers(client, Job("tcp", VIP, 80))) == 2, 60, "both endpoints answer")
        yield lab


def servers(prober: Prober, job: Job, tries: int = 8) -> Counter[str]:
    """Who answers how often."""
    return Counter(r.server for r in prober.probe([job] * tries, SLOW) if r.allowed)


def await_ready(lab: Lab, name: str) -> None:
    """Wait until a node's daemon is ready; a failure says what it lacks."""
    node = lab.node(name)
    try:
        lab.wait(lambda: node.ready(), 90, "the daemon ready")
    except TimeoutError:
        pytest.fail(f"{name} is not ready: {node.readyz()}\n{node.sh('tail -n 20 ' + str(node.home / 'daemon.log'))}")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_cluster_ip_is_balanced_over_both_nodes(lab: Lab, protocol: str) -> None:
    client = lab.pods["default/client"].prober
    port = 80 if protocol == "tcp" else 53
    found = servers(client, Job(protocol, VIP, port), 20)
    assert set(found) == {"web1", "web2"}
    assert sum(found.values()) == 20
    assert min(found.values()) >= 5


def test_a_node_port_answers_from_outside_on_every_node(lab: Lab) -> None:
    for node in lab.nodes:
        found = servers(lab.outside, Job("tcp", node.ip, 30080), 20)
        assert set(found) == {"web1", "web2"}, node.name
        assert sum(found.values()) == 20


def test_traffic_from_outside_comes_back_through_the_node_that_took_it(lab: Lab) -> None:
    node1 = lab.node("node1")
    results = lab.outside.probe([Job("tcp", node1.ip, 30080)] * 12, SLOW)
    peers = {r.server: r.peer for r in results if r.allowed}
    assert peers["web2"] == node1.ip, "a remote endpoint sees the node, so that its answer comes back this way"
    inside = lab.pods["default/client"].prober.probe([Job("tcp", VIP, 80)] * 12, SLOW)
    assert {r.peer for r in inside if r.allowed} == {lab.pods["default/client"].ip}


def test_metrics_tell_what_a_service_has_carried(lab: Lab) -> None:
    node = lab.node("node1")

    def carried() -> dict[tuple[str, ...], float]:
        """Samples of the metrics of Services on the first node, by name and labels."""
        page = node.sh(f"curl -sS --fail -m 20 http://127.0.0.1:{METRICS_PORT}/metrics")
        families = {family.name: family for family in text_string_to_metric_families(page)}
        assert families["kube_router_service_total_connections"].type == "counter"
        assert families["kube_router_service_cps"].type == "gauge"
        assert families["kube_router_controller_ipvs_services"].samples[0].value == 4
        samples = (sample for family in families.values() for sample in family.samples)
        prefix = "kube_router_service_"
        found = (s for s in samples if s.name.startswith(prefix))
        # The parser adds the suffix to counters that lack it.
        return {(s.name.removeprefix(prefix).removesuffix("_total"), *s.labels.values()): s.value for s in found}

    cluster = ("default", "web", VIP, "tcp", "80")
    outer = ("default", "web", node.ip, "tcp", "30080")
    # The kernel adds up what it counts once in two seconds: what came before this test has to be in.
    time.sleep(2.5)
    before = carried()
    assert servers(lab.pods["default/client"].prober, Job("tcp", VIP, 80), 10).total() == 10
    assert servers(lab.outside, Job("tcp", node.ip, 30080), 5).total() == 5
    expected = {cluster: 10, outer: 5}

    def counted() -> bool:
        now = carried()
        return all(now["total_connections", *at] - before["total_connections", *at] >= n for at, n in expected.items())

    lab.wait(counted, 10, "the kernel's counters")
    after = carried()
    for labels, connections in expected.items():
        assert after["total_connections", *labels] - before["total_connections", *labels] == connections
        for name in ("packets_in", "packets_out"):
            # At least the handshake, something said, and the end.
            assert after[name, *labels] - before[name, *labels] >= 3 * connections
        for name in ("bytes_in", "bytes_out"):
            assert after[name, *labels] - before[name, *labels] >= 3 * 40 * connections
    assert {labels[3:] for labels in after} == {
        (VIP, "tcp", "80"),
        (VIP, "udp", "53"),
        (node.ip, "tcp", "30080"),
        (node.ip, "udp", "30053"),
    }


def test_an_unknown_port_of_a_service_address_is_refused_at_once(lab: Lab) -> None:
    client = lab.pods["default/client"].prober
    result = client.try_one("tcp", VIP, 2222, SLOW)
    assert (result.outcome.value, result.detail) == ("refused", "ECONNREFUSED")
    for protocol, port in (("tcp", 2222), ("udp", 2222)):
        assert client.try_one(protocol, VIP, port, SLOW).outcome.value == "refused"


def test_a_service_address_answers_the_node_itself(lab: Lab) -> None:
    script = f"python3 -c 'import socket; print(socket.create_connection((\"{VIP}\", 80), 5).getsockname()[0])'"
    node = lab.node("node1")
    assert node.sh(script).strip() == node.ip


def test_an_endpoint_that_goes_takes_no_traffic_with_it(lab: Lab) -> None:
    client = lab.pods["default/client"].prober
    job = Job("tcp", VIP, 80)
    lab.pod("web3", "node2", labels={"app": "web"})
    lab.wait(lambda: "web3" in servers(client, job, 12), 30, "the new endpoint answers")
    lab.remove_pod(lab.pods["default/web3"])
    lab.wait(lambda: set(servers(client, job, 12)) == {"web1", "web2"}, 30, "traffic has moved")
    found = servers(client, job, 20)
    assert sum(found.values()) == 20


def test_session_affinity_sticks_and_ends(lab: Lab) -> None:
    client = lab.pods["default/client"].prober
    job = Job("tcp", "10.96.0.11", 80)
    sticky = (
        SHOP.replace("name: web", "name: sticky")
        .replace(VIP, "10.96.0.11")
        .replace("type: NodePort", "type: ClusterIP")
    )
    sticky = sticky.replace(", nodePort: 30080", "").replace(", nodePort: 30053", "")
    lab.apply(sticky.replace("selector:", "sessionAffinity: ClientIP\n  selector:"))
    lab.wait(lambda: servers(client, job), 30, "the sticky Service answers")
    found = servers(client, job, 20)
    assert len(found) == 1
    assert sum(found.values()) == 20
    lab.delete("Service", "default", "sticky")
    lab.wait(lambda: not servers(client, job, 2), 30, "the Service is gone")


def test_what_an_admin_cleared_comes_back_at_the_next_audit(lab: Lab) -> None:
    node = lab.node("node2")
    await_ready(lab, "node2")
    assert node.daemon is not None
    process = node.daemon.pid
    job = Job("tcp", node.ip, 30080)
    node.sh("ipvsadm -C && ipvsadm -A -t 198.51.100.9:80 -s rr")
    lab.wait(lambda: len(servers(lab.outside, job, 4)) == 2, 2 * AUDIT, "both endpoints answer again")
    assert lab.check_alive()
    assert node.daemon.pid == process, "the daemon that ran before has mended it"
    assert servers(lab.outside, job, 10).total() == 10
    assert "-A -t 198.51.100.9:80 -s rr" in node.sh("ipvsadm -Sn"), "what others have stays"


def test_what_an_admin_cleared_comes_back_with_a_restart(lab: Lab) -> None:
    client = lab.pods["default/client"].prober
    node = lab.node("node1")
    node.sh("ipvsadm -C && ipvsadm -A -t 198.51.100.9:80 -s rr && ip addr add 198.51.100.8/32 dev kube-dummy-if")
    assert not servers(client, Job("tcp", VIP, 80), 2)
    node.restart_daemon()
    lab.wait(lambda: len(servers(client, Job("tcp", VIP, 80))) == 2, 60, "both endpoints answer again")
    await_ready(lab, "node1")
    assert "-A -t 198.51.100.9:80 -s rr" in node.sh("ipvsadm -Sn"), "what others have stays"
    assert "198.51.100.8/32" in node.sh("ip addr show dev kube-dummy-if")


@pytest.mark.parametrize("words", ["addr flush dev kube-dummy-if", "link del kube-dummy-if"])
def test_a_flushed_service_address_is_repaired_by_notice(lab: Lab, words: str, tell: Callable[[str], None]) -> None:
    node = lab.node("node1")
    await_ready(lab, "node1")
    # The time that it takes to enter the node is not the daemon's.
    waits = f"ip {words}; until ip addr show dev kube-dummy-if | grep -q {VIP}/32; do sleep 0.02; done"
    began, ended = map(float, node.sh(f"date +%s.%N; {waits}; date +%s.%N").split())
    tell(f"{words}: back after {ended - began:.2f} s")
    assert ended - began < PROMISE * PATIENCE, "the next audit is minutes away"
    assert len(servers(lab.pods["default/client"].prober, Job("tcp", VIP, 80))) == 2


def test_a_restart_of_the_daemon_loses_no_probe(lab: Lab) -> None:
    client = lab.pods["default/client"].prober
    await_ready(lab, "node1")
    client.stream("vip", Job("tcp", VIP, 80), rate=20, bound=SLOW)
    lab.node("node1").restart_daemon()
    await_ready(lab, "node1")
    report = client.stop_stream("vip", SLOW)
    assert report.sent > 20
    assert report.lost == 0, report
