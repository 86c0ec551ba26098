"""IPVS at size, against `ipvsadm` with the same content: `python -m tests.bench.proxy_ipvs FILE SIZE ...`.

Runs where the kernel has IPVS, in a guest if need be; writes the figures to a file, for a guest has nothing else to
hand them back by. Every filling takes place in a fresh namespace: what was deleted makes the kernel slow for minutes.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kuberouter.drivers.ipvs import DestinationDriver, VirtualServiceDriver
from kuberouter.model.core import Batch
from kuberouter.model.events import Upserted
from tests.bench import proxy_node
from tests.bench.proxy_node import ENDPOINTS, IPVS, Figure, Proxy
from tests.bench.yardstick import fresh_namespace, quiet_collector, ratio, stopwatch, tool

PERCENT = 100
USERS = Path("/sys/module/ip_vs/refcnt")
"""How often IPVS is in use, once for every service of any namespace."""
TAKEN_DOWN = 60.0
"""Seconds within which the kernel should have forgotten a table whose namespace is gone."""
T = TypeVar("T")
SPAWN = ["ipset", "add", "BENCH", "192.0.2.1", "-exist"]


def figures_of(services: int, runs: int) -> list[Figure]:
    """Every figure at one number of Services."""
    size = f"{services // 1000}k" if services >= 1000 else str(services)
    events = proxy_node.decoded(proxy_node.objects(services))
    found, whole = _filling(size, events, runs)

    def full() -> list[Figure]:
        proxy = proxy_node.ipvs_proxy()
        assert proxy.take(events) >= services * (ENDPOINTS + 1)
        return [*_standing(size, proxy, services, whole=whole), *_changes(size, proxy, services)]

    return found + _in_own_table(full)


def _in_own_table(measure: Callable[[], T]) -> T:
    """Measure in a namespace with a table of its own, and wait until the kernel has taken that down.

    It does so in its own time, and meanwhile disturbs whatever is measured next.
    """
    before = _users()
    with fresh_namespace():
        found = measure()
    # A socket that somebody still holds keeps its namespace alive.
    gc.collect()
    began = time.monotonic()
    while (left := _users() - before) > 0 and time.monotonic() < began + TAKEN_DOWN:
        time.sleep(0.1)
    if left > 0:
        print(f"# {left} services of the last table are still there after {TAKEN_DOWN:g} s", flush=True)
    return found


def _users() -> int:
    return int(USERS.read_text()) if USERS.exists() else 0


def _filling(size: str, events: Sequence[Upserted], runs: int) -> tuple[list[Figure], float]:
    """Into an empty table: from finished batches, and from decoded objects; and what the latter took in seconds."""
    rows = _planned(events)
    text = proxy_node.restorable(*rows)
    tools: list[float] = []
    bare: list[float] = []
    whole: list[float] = []
    for _ in range(runs):
        tools.append(_in_own_table(lambda: tool(["ipvsadm", "-R"], text)))
        bare.append(_in_own_table(lambda: _from_batches(rows)))
        whole.append(_in_own_table(lambda: _from_objects(events)))
    floor, middle, full = (statistics.median(each) for each in (tools, bare, whole))
    print(
        f"# ipvs-fill-{size}: ipvsadm -R {floor * 1e3:.0f} ms, from batches {middle * 1e3:.0f} ms, "
        f"from decoded objects {full * 1e3:.0f} ms (n={runs})",
        flush=True,
    )
    return [
        (f"proxy-ipvs-fill-{size}", middle / floor, 0.12, "ratio"),
        (f"proxy-ipvs-fill-from-objects-{size}", full / floor, 0.25, "ratio"),
    ], full


def _planned(events: Sequence[Upserted]) -> list[tuple[Any, ...]]:
    """The rows of both tables. Who planned them is gone with what it held.

    So what is measured next finds memory that the process has already, whatever the size: an emulated guest takes long
    to hand out pages, and longest the first time.
    """
    plan = Proxy({})
    plan.take(events)
    return [tuple(plan.desired(row).values()) for row in IPVS]


def _from_batches(rows: Sequence[tuple[Any, ...]]) -> float:
    services, destinations = VirtualServiceDriver(), DestinationDriver()
    with quiet_collector(), stopwatch() as seconds:
        failed = {**services.write(Batch(rows[0])).failed, **destinations.write(Batch(rows[1])).failed}
    assert not failed, list(failed.items())[:3]
    standing = sum(1 for _ in destinations.read())
    assert standing == len(rows[1]), standing
    return seconds()


def _from_objects(events: Sequence[Upserted]) -> float:
    proxy = proxy_node.ipvs_proxy()
    with quiet_collector(), stopwatch() as seconds:
        proxy.take(events)
    return seconds()


def _standing(size: str, proxy: Proxy, services: int, *, whole: float) -> list[Figure]:
    """What a table costs that holds what it should, and one of which a hundredth changes."""

    def saved() -> float:
        return tool(["ipvsadm", "-Sn"])

    def compared() -> float:
        spent = 0.0
        for row in IPVS:
            table = proxy.world.dataplane.tables[row]
            actual = {each.key: each for each in table.driver.read()}
            with stopwatch() as seconds:
                differing = table.mirror.refresh(actual, proxy.desired(row))
            assert not differing
            spent += seconds()
        return spent

    with proxy_node.settled():
        resync = ratio(f"ipvs-resync-{size}", proxy.audit, saved, 3)
        memory = ratio(f"ipvs-compare-{size}", compared, saved, 3)
        changed = _a_hundredth(proxy, services)
    for how, seconds in changed.items():
        print(f"# ipvs-change-1-percent-{size}-{how}: {seconds * 1e3:.1f} ms", flush=True)
    return [
        (f"proxy-ipvs-resync-{size}", resync, 1.0, "ratio"),
        (f"proxy-ipvs-compare-{size}", memory, 0.1, "ratio"),
        *((f"proxy-ipvs-change-1-percent-{size}-{how}", each / whole, 0.05, "ratio") for how, each in changed.items()),
    ]


def _a_hundredth(proxy: Proxy, services: int) -> dict[str, float]:
    """Seconds for decoded endpoints of which one in a hundred is another.

    Once in whole Services, as in a rollout, and once one in each of ten times as many Services.
    """
    few = services // PERCENT
    medians: dict[str, float] = {}
    for how, count, each in (("rollout", few, ENDPOINTS), ("scattered", few * ENDPOINTS, 1)):
        seconds: list[float] = []
        for turn in range(6):
            replaced = each if turn % 2 == 0 else 0
            events = proxy_node.decoded(proxy_node.endpoints(n, replaced=replaced) for n in range(count))
            with stopwatch() as watch:
                written = proxy.take(events)
            assert written == 2 * count * each, written
            seconds.append(watch())
        medians[how] = statistics.median(seconds)
    return medians


def _changes(size: str, proxy: Proxy, services: int) -> list[Figure]:
    """Single events and a burst of them."""
    tool(["ipset", "create", "BENCH", "hash:ip", "-exist"])
    latency = proxy_node.single_changes("ipvs-endpoint", proxy, services, lambda: tool(SPAWN))
    found: list[Figure] = [
        (f"proxy-ipvs-endpoint-p50-{size}", latency.middle, 0.3, "ratio"),
        (f"proxy-ipvs-endpoint-p99-{size}", latency.late, 2.0, "ratio"),
    ]
    if services >= proxy_node.BURST:
        found.append((f"proxy-ipvs-burst-{size}", proxy_node.burst(f"ipvs-burst-{size}", proxy, 3), 3.0, "ratio"))
    found.append((f"proxy-ipvs-silent-events-{size}", float(proxy_node.silent(proxy, services)), 0.0, " writes"))
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure the sizes that are asked for, the bigger ones once."""
    found: list[Figure] = []
    for size in map(int, arguments[1:]):
        found += figures_of(size, 3 if size <= 1000 else 1)
        Path(arguments[0]).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
