"""The engine at size: 10k Services with 10 endpoints each, from bytes to a memory driver, and one change in them.

Measured in a process of its own, so that its memory is the engine's and nobody else's.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable

SERVICES = 10_000
ENDPOINTS = 10
BIG = 50_000
PER_SLICE = 100

Figure = tuple[str, float, float, str]
"""Name, value, target, unit."""


def service_bytes(name: str, vip: str, port: int = 80) -> bytes:
    """A Service as the apiserver sends it, managedFields included."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name,
                "namespace": "shop",
                "uid": f"0a4d9c3e-6f5b-4c0e-9a59-{abs(hash(name)) % 10**12:012d}",
                "resourceVersion": "4711",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"app": name, "tier": "backend"},
                "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:x": {}}}}],
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": vip,
                "clusterIPs": [vip],
                "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "protocol": "TCP", "port": port, "targetPort": 8080}],
                "selector": {"app": name},
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
            },
            "status": {"loadBalancer": {}},
        }
    ).encode()


def slice_bytes(service: str, part: int, addresses: Iterable[str], ready: bool = True) -> bytes:
    """One EndpointSlice of a Service."""
    return json.dumps(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-{part:05d}",
                "namespace": "shop",
                "resourceVersion": "4712",
                "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "c"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": [
                {
                    "addresses": [address],
                    "conditions": {"ready": ready, "serving": ready, "terminating": False},
                    "nodeName": f"node-{index % 100}",
                    "targetRef": {"kind": "Pod", "namespace": "shop", "name": f"{service}-{index}"},
                }
                for index, address in enumerate(addresses)
            ],
        }
    ).encode()


def pod_address(number: int) -> str:
    """The number-th address of 10.128.0.0/9."""
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def vip(number: int) -> str:
    """The number-th address of 10.96.0.0/12."""
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def figures() -> list[Figure]:
    """First load in seconds, one change in milliseconds in a small and in a big Service, memory in megabytes."""
    output = subprocess.run(
        [sys.executable, "-m", "tests.bench.engine"], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    return [(str(n), float(v), float(t), str(u)) for n, v, t, u in json.loads(output.splitlines()[-1])]


def measure() -> list[Figure]:
    """Build the world in this process and measure it."""
    from tests.support.world import ProxyWorld

    world = ProxyWorld()
    first_load = 0.0
    # The input is made one object at a time, so that the memory measured is what the node keeps of it.
    for n in range(SERVICES):
        service = service_bytes(f"s{n}", vip(n + 1))
        endpoints = slice_bytes(f"s{n}", 0, (pod_address(n * 10 + e) for e in range(ENDPOINTS)))
        started = time.perf_counter()
        world.feed(service)
        world.feed(endpoints)
        first_load += time.perf_counter() - started
    started = time.perf_counter()
    world.sync()
    first_load += time.perf_counter() - started
    assert world.destinations() == SERVICES * ENDPOINTS, world.destinations()
    rss = _rss()
    small = _one_change(world, "s77", 0, [pod_address(770 + e) for e in range(10)])
    addresses = [pod_address(2_000_000 + e) for e in range(BIG)]
    world.feed(service_bytes("big", vip(60_000)))
    for part in range(BIG // PER_SLICE):
        world.feed(slice_bytes("big", part, addresses[part * PER_SLICE : (part + 1) * PER_SLICE]))
    world.sync()
    assert world.destinations() == SERVICES * ENDPOINTS + BIG, world.destinations()
    big = _one_change(world, "big", 7, addresses[7 * PER_SLICE : 8 * PER_SLICE])
    return [
        ("engine-first-load-10k-services", first_load, 6.0, "s"),
        ("engine-one-endpoint", small * 1e3, 1.0, "ms"),
        ("engine-one-endpoint-of-50k", big * 1e3, 2.0, "ms"),
        ("engine-resident-100k-endpoints", rss, 140.0, "MB"),
    ]


def _rss() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


def _one_change(world: object, service: str, part: int, addresses: list[str]) -> float:
    from tests.support.world import ProxyWorld

    assert isinstance(world, ProxyWorld)
    times: list[float] = []
    for turn in range(41):
        changed = [*addresses[:-1], "10.127.0.1" if turn % 2 == 0 else addresses[-1]]
        raw = slice_bytes(service, part, changed)
        started = time.perf_counter()
        world.feed(raw)
        writes = world.sync()
        times.append(time.perf_counter() - started)
        assert writes == 2, f"one endpoint replaced is one removal and one addition, not {writes} writes"
    return statistics.median(times)


if __name__ == "__main__":
    print(json.dumps(measure()))
