"""The service proxy at size. Where this kernel has no IPVS its figures are taken in a guest that has.

`PROXY_BENCH_SIZES` names other numbers of Services for IPVS than `1000,5000`, of which the second takes the longest.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.model.core import Batch, Row
from kuberouter.model.network import Address, AddressKey, LocalRoute, LocalRouteKey
from kuberouter.model.ports import Driver
from tests.bench import proxy_node
from tests.bench.proxy_ipvs import SPAWN
from tests.bench.proxy_node import ENDPOINTS, Figure, Proxy
from tests.bench.yardstick import fresh_namespace, ratio, stopwatch, tool
from tests.support.lab import netns
from tests.vm.guest import SCRATCH, acceleration, run_in_guest

RUNS = 5
SERIES = (100, 1000, 10_000)
SIZES = os.environ.get("PROXY_BENCH_SIZES", "1000,5000").split(",")
LINK = "kube-dummy-if"
NODE = "192.0.2.1"
GUEST_BOUND = 900.0
R = TypeVar("R", bound=Row)


def figures() -> list[Figure]:
    """Every figure of the service proxy."""
    return [*_memory(), *_changes(), *_addresses(), *_ipvs()]


# --- memory, in a process of its own ---------------------------------------------------------------------------------


def _memory() -> list[Figure]:
    words = [sys.executable, "-m", "tests.bench.proxy"]
    comment, last = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()
    print(comment, flush=True)
    return [("proxy-memory", float(last), 55.0, "MB")]


def measure_memory(services: int = 5000) -> float:
    """Resident megabytes that Services and endpoints add to a process which knows nothing but its node."""
    proxy = Proxy({})
    gc.collect()
    idle = _resident()
    # One object at a time, so that what is measured is what the node keeps of it.
    for raw in proxy_node.objects(services):
        proxy.world.feed(raw)
    written = proxy.world.sync()
    assert written >= services * (ENDPOINTS + 1), written
    # The daemon forgets what it wrote in a turn with the next.
    proxy.world.sync()
    gc.collect()
    full = _resident()
    print(f"# proxy-memory: idle {idle:.1f} MB, with {services} Services {full:.1f} MB", flush=True)
    return full - idle


def _resident() -> float:
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Rss:")) * 1024 / 1e6


# --- changes, with a set that stands in for IPVS ----------------------------------------------------------------------


def _changes() -> list[Figure]:
    found: list[Figure] = []
    middles: list[float] = []
    for services in SERIES:
        with fresh_namespace():
            tool(["ipset", "create", "BENCH", "hash:ip"])
            proxy = proxy_node.stand_in_proxy()
            proxy.take(proxy_node.decoded(proxy_node.objects(services)))
            latency = proxy_node.single_changes("endpoint", proxy, services, lambda: tool(SPAWN))
            middles.append(latency.seconds)
            found += [
                (f"proxy-endpoint-p50-{services}", latency.middle, 0.3, "ratio"),
                (f"proxy-endpoint-p99-{services}", latency.late, 2.0, "ratio"),
            ]
            if services == proxy_node.BURST:
                found += [
                    ("proxy-burst-1000", proxy_node.burst("burst", proxy, RUNS), 3.0, "ratio"),
                    ("proxy-silent-events", float(proxy_node.silent(proxy, services)), 0.0, " writes"),
                ]
    return [*found, ("proxy-endpoint-flat", middles[-1] / middles[0], 1.5, "ratio")]


# --- service addresses -----------------------------------------------------------------------------------------------


def _addresses() -> list[Figure]:
    found: list[Figure] = []
    for count in (1000, 5000):
        packed = [bytes((10, 96, n >> 8, n & 255)) for n in range(1, count + 1)]
        source = bytes(map(int, NODE.split(".")))
        addresses = Batch(tuple(Address(AddressKey(LINK, a, 32), source) for a in packed))
        routes = Batch(tuple(LocalRoute(LocalRouteKey(a), source) for a in packed))
        texts = [".".join(map(str, a)) for a in packed]
        lines = [f"addr replace {text}/32 dev {LINK}" for text in texts]
        lines += [f"route replace local {text} dev {LINK} table local proto 17 src {NODE}" for text in texts]

        def as_addresses(batch: Batch[Address] = addresses) -> float:
            return _written(lambda: AddressDriver((LINK,)), batch)

        def as_routes(batch: Batch[LocalRoute] = routes) -> float:
            return _written(LocalRouteDriver, batch)

        def by_ip(text: str = "\n".join([*lines, ""])) -> float:
            with _linked():
                return tool(["ip", "-batch", "-"], text)

        size = f"{count // 1000}k"
        found += [
            (f"proxy-addresses-{size}", ratio(f"addresses-{size}", as_addresses, by_ip, RUNS), 1.0, "ratio"),
            (f"proxy-routes-{size}", ratio(f"routes-{size}", as_routes, as_addresses, RUNS), 1.0, "ratio"),
        ]
    return found


@contextmanager
def _linked() -> Iterator[None]:
    """A fresh namespace in which the link and the address of the node are."""
    with fresh_namespace() as name:
        # A bridge without ports: for addresses any link is as good, and not every kernel has the dummy one.
        netns.configure(name, f"link add {LINK} type bridge", f"link set {LINK} up", f"addr add {NODE}/32 dev lo")
        yield


def _written(make: Callable[[], Driver[R]], batch: Batch[R]) -> float:
    with _linked():
        driver = make()
        with stopwatch() as seconds:
            failed = driver.write(batch).failed
        assert not failed, list(failed.items())[:3]
        return seconds()


# --- IPVS ------------------------------------------------------------------------------------------------------------


def _ipvs() -> list[Figure]:
    """The figures of the IPVS of this kernel, or of a guest's."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_scratch()) as folder:
        file = Path(folder) / "figures.json"
        words = [sys.executable, "-m", "tests.bench.proxy_ipvs", str(file), *SIZES]
        if netns.have("ip_vs"):
            status = subprocess.run(words, check=False, timeout=GUEST_BOUND).returncode
        else:
            print(f"# this kernel has no IPVS: its figures come from a guest ({acceleration()})", flush=True)
            status = run_in_guest(words, GUEST_BOUND)
        measured = json.loads(file.read_text()) if file.exists() else []
        found: list[Figure] = [(str(n), float(v), float(t), str(u)) for n, v, t, u in measured]
        # What was measured before it broke counts, and so does that it broke.
        return [*found, ("proxy-ipvs-exit-status", float(status), 0.0, "")] if status else found


def _scratch() -> Path:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    return SCRATCH


if __name__ == "__main__":
    print(measure_memory())
