"""The process as the node pays for it: memory, time to its first request, processor time when nothing happens.

A real daemon with all controllers on, as far as this kernel has what they need, in a lab of one node with a gobgpd, an
apiserver and a handful of objects. The lab apiserver sends a bookmark a second to every watch; a real one sends one a
minute, so idle time is measured under worse than real conditions.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from tests.support.lab import Lab, Node

STARTS = 5
SETTLE = 5.0
"""Seconds from the first request to the measurement of memory: by then every controller is at rest."""
IDLE = 10.0
"""Seconds over which processor time is measured."""
BOUND = 20.0

Figure = tuple[str, float, float, str]
"""Name, value, target, unit."""


def figures() -> list[Figure]:
    """Resident memory in megabytes, seconds from exec to the first request, idle share of one core in percent."""
    with Lab(nodes=1, subnets=1) as lab:
        _populate(lab)
        node = lab.nodes[0]
        starts = []
        for _ in range(STARTS):
            if node.daemon is not None:
                node.stop_daemon()
            starts.append(_start(lab, node))
        time.sleep(SETTLE)
        assert node.daemon is not None
        pid = node.daemon.pid
        states = node.readyz().strip()
        before, began = _processor_time(pid), time.monotonic()
        time.sleep(IDLE)
        idle = (_processor_time(pid) - before) / (time.monotonic() - began)
        memory = _resident(pid)
    print("\n".join(f"# {line}" for line in states.splitlines()))
    return [
        ("process-resident", memory, 85.0, "MB"),
        ("process-first-request", statistics.median(starts), 0.6, "s"),
        ("process-idle", idle * 100, 1.0, "%"),
    ]


def _start(lab: Lab, node: Node) -> float:
    """Start the daemon; seconds until the apiserver hears from it, the way into the namespace included."""
    seen = len(lab.api.requests)
    began = time.monotonic()
    if node.gobgpd is None:
        lab.start_node(node)
    else:
        node.start_daemon()
    while len(lab.api.requests) == seen:
        assert node.daemon is not None
        if node.daemon.returncode() is not None or time.monotonic() - began > BOUND:
            raise RuntimeError(f"the daemon asked for nothing:\n{node.daemon.tail()}")
        time.sleep(0.001)
    return time.monotonic() - began


def _populate(lab: Lab) -> None:
    """Ten Services of two endpoints each and a policy, without real pods behind them."""
    for number in range(10):
        name, labels = f"app-{number}", {"app": f"app-{number}"}
        port = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}
        spec = {"clusterIP": f"10.96.0.{number + 10}", "selector": labels, "ports": [port]}
        metadata = {"name": name, "namespace": "default"}
        lab.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        lab.api.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**metadata, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
                "endpoints": [
                    {"addresses": [f"10.244.1.{2 * number + part}"], "conditions": {"ready": True}} for part in (2, 3)
                ],
            }
        )
    lab.api.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "deny", "namespace": "default"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        }
    )


def _processor_time(pid: int) -> float:
    """Seconds that the threads of a process have run (first field of schedstat, in nanoseconds)."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _resident(pid: int) -> float:
    """Resident memory in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6
