"""A rolling update of ten pods under steady load: with graceful termination not one request fails.

Pods are namespaces on two nodes with one process that plays them all, since twenty processes would be more than the
guest can start in a minute. The daemon, its API objects, the packets and their way through IPVS are real. The old pods
behave as servers do that are told to end: they finish what is open, say so, still take what comes, and end when their
last connection has and the endpoints have had time to be known everywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab, netns
from tests.support.probes import PATIENCE

pytestmark = [pytest.mark.ipvs, pytest.mark.dummy]

VIPS = ("10.96.0.10", "fd96::10")
EXTERNAL = ("203.0.113.10", "2001:db8:1::10")
PORT = 8080
NODE_PORT = 30080
PODS = 10
RATE = 120.0
"""New connections a second, with one request each; to each kind of address in both families in turn."""
ENOUGH = 100.0
"""At least so many of them are answered a second, where the processor is not emulated."""
LONG = 20
"""Connections that stay, with a request each 0.25 s."""
STEP = 0.5
"""Seconds between one pod and the next."""
NOTICE = 3.0 if PATIENCE == 1.0 else 8.0
"""Seconds that a pod which is told to end takes what comes, as with a preStop hook of `sleep`."""
AGENT = Path(__file__).parents[1] / "support" / "rollout_agent.py"
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {
        "type": "NodePort",
        "clusterIP": VIPS[0],
        "clusterIPs": list(VIPS),
        "externalIPs": list(EXTERNAL),
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "nodePort": NODE_PORT}],
    },
}


class Agent:
    """One side of the load."""

    def __init__(self, prefix: Sequence[str], *words: str) -> None:
        self._popen = subprocess.Popen(
            [*prefix, "setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-ISB", str(AGENT), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        assert self.line() == "ready"

    def line(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def ask(self, verb: str, name: str) -> int:
        """Tell the pods something; the open connections of that one."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{verb} {name}\n")
        self._popen.stdin.flush()
        return int(self.line())

    def end(self) -> str:
        """No more; the rest of what it says."""
        out, _ = self._popen.communicate(timeout=30.0 * PATIENCE)
        return out

    def close(self) -> None:
        self._popen.kill()
        self._popen.communicate()


class Deployment:
    """Ten old pods and their ten successors, five each on a node."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.addresses: dict[str, tuple[str, str, str]] = {}
        """Both addresses and node of each pod."""
        self.endpoints: dict[str, str] = {}
        """Letters of their conditions: ready, serving, terminating."""
        for node in lab.nodes:
            network = node.site.pod_cidrs[0].removesuffix(".0/24")
            six = node.site.pod_cidrs[1].removesuffix("/64")
            odd = node.site.number % 2
            mine = [f"{kind}{number}" for kind in ("old", "new") for number in range(PODS) if number % 2 == odd]
            if node.name == "node1":
                mine.append("client")
            lines = [
                "link add kube-bridge type bridge",
                f"addr add {network}.1/24 dev kube-bridge",
                f"addr add {six}1/64 dev kube-bridge nodad",
            ]
            for number, pod in enumerate(mine, 2):
                netns.add(self.namespace(pod))
                lines += (
                    f"link add veth{number} type veth peer name eth0 netns {self.namespace(pod)}",
                    f"link set veth{number} master kube-bridge up",
                )
                self.addresses[pod] = (f"{network}.{number}", f"{six}{number:x}", node.name)
            netns.configure(node.namespace, *lines, "link set kube-bridge up")
            for pod in mine:
                netns.configure(
                    self.namespace(pod),
                    f"addr add {self.addresses[pod][0]}/24 dev eth0",
                    f"addr add {self.addresses[pod][1]}/64 dev eth0 nodad",
                    "link set eth0 up",
                    f"route add default via {network}.1",
                    f"route add default via {six}1",
                )

    def namespace(self, pod: str) -> str:
        return f"{self.lab.prefix}-{pod}"

    def tell(self) -> None:
        """Report the endpoints."""
        for index, family in enumerate(("IPv4", "IPv6")):
            self._tell(index, family)

    def _tell(self, index: int, family: str) -> None:
        rows = [
            {
                "addresses": [self.addresses[pod][index]],
                "nodeName": self.addresses[pod][2],
                "conditions": {
                    "ready": "r" in letters,
                    "serving": "s" in letters,
                    "terminating": "t" in letters,
                },
            }
            for pod, letters in self.endpoints.items()
        ]
        self.lab.store.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"web-{family.lower()}",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": family,
                "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
                "endpoints": rows,
            }
        )

    def update(self, pods: Agent) -> None:
        """Replace the old pods one by one: the new one is ready before the old one is told to end."""
        ending: dict[str, float] = {}
        for number in range(PODS):
            self.endpoints[f"new{number}"] = "rs"
            self.endpoints[f"old{number}"] = "st"
            pods.ask("end", f"old{number}")
            ending[f"old{number}"] = time.monotonic()
            self._bury(pods, ending)
            self.tell()
            time.sleep(STEP)
        end = time.monotonic() + 30.0 * PATIENCE
        while ending:
            assert time.monotonic() < end, f"connections do not leave {list(ending)}"
            if self._bury(pods, ending):
                self.tell()
            time.sleep(0.1)

    def _bury(self, pods: Agent, ending: dict[str, float]) -> int:
        over = [p for p, since in ending.items() if time.monotonic() > since + NOTICE and not pods.ask("count", p)]
        for pod in over:
            pods.ask("kill", pod)
            del ending[pod], self.endpoints[pod]
        return len(over)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes; the daemon runs on the first, where the clients are."""
    arguments = ["--run-router=false", "--run-firewall=false", "--ipvs-graceful-termination"]
    arguments.append("--strict-external-ip-validation=false")
    with Lab(nodes=2, subnets=1, families=(4, 6), manifests=True, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start_node(lab.node("node1"))
        yield lab


def test_a_rolling_update_fails_no_request(lab: Lab, tell: Callable[[str], None]) -> None:
    deployment = Deployment(lab)
    node = lab.node("node1")
    lab.apply(SERVICE)
    deployment.endpoints = {f"old{number}": "rs" for number in range(PODS)}
    deployment.tell()
    names = [f"{kind}{number}" for kind in ("old", "new") for number in range(PODS)]
    targets = [f"{address}:{PORT}" for address in (*VIPS, *EXTERNAL)]
    targets += (f"{address}:{NODE_PORT}" for address in node.site.addresses)
    pods = Agent([], "serve", *(f"{name}={netns.path(deployment.namespace(name))}" for name in names))
    client: Agent | None = None
    try:
        pods.ready()
        lab.wait(lambda: lab.check_alive() and node.ready(), 60, "the daemon ready")
        lab.wait(lambda: weights(lab).count(1) == PODS * len(targets), 20, "all endpoints")
        inside = ["nsenter", f"--net={netns.path(deployment.namespace('client'))}"]
        client = Agent(inside, "load", ",".join(targets), str(RATE), str(LONG))
        client.ready()
        time.sleep(1.0)
        began = time.monotonic()
        deployment.update(pods)
        took = time.monotonic() - began
        lab.wait(lambda: weights(lab) == [1] * PODS * len(targets), 20, "only the new ones")
        report = json.loads(client.end())
    finally:
        pods.close()
        if client is not None:
            client.close()
    new, long = report["new"], report["long"]
    rate = sum(new["answered"].values()) / report["seconds"]
    short = "" if rate >= ENOUGH else f", SHORT of {ENOUGH:.0f}"
    tell(
        f"rolling update of {PODS} pods in {took:.1f} s: {rate:.0f} new "
        f"connections a second{short} ({sum(new['answered'].values())}, slowest {new['slowest']:.2f} s, "
        f"{sum(new['failed'].values())} failed), {LONG} long ones with {sum(long['answered'].values())} requests "
        f"(slowest {long['slowest']:.2f} s, {sum(long['failed'].values())} failed)"
    )
    assert new["failed"] == {}
    assert long["failed"] == {}
    assert not short or PATIENCE > 1.0
    assert set(new["answered"]) == set(names), "every pod has had its share"
    assert any(name.startswith("new") for name in long["answered"])


def weights(lab: Lab) -> list[int]:
    """Weights of the destinations on the first node, in order."""
    lines = lab.node("node1").sh("ipvsadm -Sn").splitlines()
    return sorted(int(line.split()[-1]) for line in lines if line.startswith("-a "))
