"""The netlink batcher against the tools that operators would use: same content, a fresh namespace for each run."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from ipaddress import ip_address

from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.network import RouteDriver
from kuberouter.model.core import Batch, Family, Prefix
from kuberouter.model.netfilter import IpSet, IpSetKey, Member, MemberKey, SetType
from kuberouter.model.network import TABLE_MAIN, Route, RouteKey
from tests.support.lab import netns

RUNS = 5
COUNT = 10_000
Figure = tuple[str, float, float, str]


def _tool(words: list[str], text: str) -> float:
    started = time.perf_counter()
    subprocess.run(words, input=text, text=True, check=True, capture_output=True)
    return time.perf_counter() - started


def _fresh(measure: Callable[[], float]) -> float:
    """Median seconds over several runs, each in a namespace of its own with one link."""
    seconds: list[float] = []
    for _ in range(RUNS):
        name = f"{netns.unique_prefix()}-bench"
        netns.add(name)
        try:
            netns.configure(name, "link add up0 type bridge", "addr add 192.0.2.1/24 dev up0", "link set up0 up")
            with netns.inside(name):
                seconds.append(measure())
        finally:
            netns.remove(name)
    return statistics.median(seconds)


def _addresses() -> list[bytes]:
    return [(0x0A000000 + n * 3).to_bytes(4, "big") for n in range(COUNT)]


def _fill_by_us() -> float:
    key = IpSetKey("KUBE-SRC-BENCH")
    SetDriver(lambda _: True).write(Batch((IpSet(key, SetType.HASH_IP, Family.IPV4),)))
    driver = MemberDriver(lambda _: True)
    batch = Batch(tuple(Member(MemberKey(key.name, a, 32)) for a in _addresses()))
    started = time.perf_counter()
    outcome = driver.write(batch)
    took = time.perf_counter() - started
    assert not outcome.failed
    return took


def _fill_by_ipset() -> float:
    lines = [f"add KUBE-SRC-BENCH {ip_address(a)}" for a in _addresses()]
    return _tool(["ipset", "restore"], "\n".join(["create KUBE-SRC-BENCH hash:ip", *lines, ""]))


def _routes_by_us() -> float:
    driver = RouteDriver((TABLE_MAIN,))
    gateway = (ip_address("192.0.2.2").packed,)
    batch = Batch(tuple(Route(RouteKey(TABLE_MAIN, Prefix(a, 32)), gateway) for a in _addresses()))
    started = time.perf_counter()
    outcome = driver.write(batch)
    took = time.perf_counter() - started
    assert not outcome.failed
    return took


def _routes_by_ip() -> float:
    lines = [f"route replace {ip_address(a)}/32 via 192.0.2.2 proto 17" for a in _addresses()]
    return _tool(["ip", "-batch", "-"], "\n".join(lines))


def figures() -> list[Figure]:
    """Ratios of our time, from a finished Batch to the last answer, to the tool's."""
    return [
        ("netlink-ipset-fill-10k", _fresh(_fill_by_us) / _fresh(_fill_by_ipset), 1.0, "ratio"),
        ("netlink-routes-10k", _fresh(_routes_by_us) / _fresh(_routes_by_ip), 1.0, "ratio"),
    ]
