"""The firewall at size: a node of 150 pods in a cluster of 10k pods and 1k policies, dual-stack, against bare tools.

Each floor is what the tools themselves take for the very same content, measured in turn with ours. What one process
would spoil for the next figure (memory, the collector) is measured in a process of its own.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address

from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, Variant
from kuberouter.model.core import Batch, Family
from kuberouter.model.netfilter import Chain, IpSet, IpSetKey, Member, MemberKey, SetType, Table, make_named_chain
from kuberouter.wire.text.iptables import Script
from tests.bench import content, firewall_node
from tests.bench.firewall_nftables import figures_of_nftables
from tests.bench.firewall_node import PREFIXES, Node
from tests.bench.yardstick import (
    TimedSocket,
    absolute,
    fresh_namespace,
    in_fresh_namespace,
    output,
    quiet_collector,
    ratio,
    stopwatch,
    tool,
)
from tests.support.world import kind_of

RUNS = 5
Figure = tuple[str, float, float, str]
"""Name, value, target, unit."""


def figures() -> list[Figure]:
    """Every figure of the firewall; the backends bring their own."""
    found = [*_processes(), *_filling()]
    with fresh_namespace(), _loaded(Variant.NFT) as node:
        found += [*_events(node), *_resync(node)]
    for variant in Variant:
        found += _iptables(variant)
    return [*found, *figures_of_nftables()]


# --- memory and computing, each in a process of its own --------------------------------------------------------------


def _processes() -> list[Figure]:
    return [figure for name in PROCESSES for figure in _in_process(name)]


def _in_process(name: str) -> list[Figure]:
    words = [sys.executable, "-m", "tests.bench.firewall", name]
    *comments, last = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600).stdout.splitlines()
    print("\n".join(comments), flush=True)
    return [(str(n), float(v), float(t), str(u)) for n, v, t, u in json.loads(last)]


def measure_compute() -> list[Figure]:
    """Everything from decoded objects to rows, against reading the pods' JSON into dictionaries."""
    pods = b'{"items":[' + b",".join(content.pods()) + b"]}"
    events = firewall_node.events([*content.namespaces(), *content.pods(), *content.policies()])

    def ours() -> float:
        node = Node()
        with quiet_collector(), stopwatch() as seconds:
            node.world.planner.step(events, limit=10_000_000)
        node.check()
        return seconds()

    def floor() -> float:
        with stopwatch() as seconds:
            json.loads(pods)
        return seconds()

    return [("firewall-compute", ratio("compute", ours, floor, RUNS), 0.25, "ratio")]


def measure_memory() -> list[Figure]:
    """Resident megabytes that the cluster adds to a process which knows nothing but its node."""
    node = Node(drivers=dict.fromkeys(firewall_node.ROWS, firewall_node.Nowhere()))
    gc.collect()
    idle = _resident()
    # One object at a time, so that what is measured is what the node keeps of it.
    for raw in content.namespaces():
        node.world.feed(raw)
    for raw in content.pods():
        node.world.feed(raw)
    node.world.sync()
    pods = _resident()
    for raw in content.policies():
        node.world.feed(raw)
    node.world.sync()
    node.check()
    # The daemon forgets what it wrote in a turn with the next.
    node.world.sync()
    gc.collect()
    full = _resident()
    print(f"# memory: idle {idle:.1f} MB, with pods {pods:.1f} MB, with policies {full:.1f} MB", flush=True)
    return [
        ("firewall-memory", full - idle, 45.0, "MB"),
        ("firewall-memory-a-pod", (pods - idle) * 1000 / (content.NAMESPACES * content.PODS), 1.0, "KB"),
    ]


def _resident() -> float:
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Rss:")) * 1024 / 1e6


PROCESSES: dict[str, Callable[[], list[Figure]]] = {"memory": measure_memory, "compute": measure_compute}


# --- sets ------------------------------------------------------------------------------------------------------------


def _filling() -> list[Figure]:
    return [
        (f"firewall-ipset-fill-{count // 1000}k", _fill(count), target, "ratio")
        for count, target in ((10_000, 0.10), (100_000, 0.20))
    ]


def _fill(count: int) -> float:
    """Creating and filling one set, from finished batches to the last answer, against `ipset restore`."""
    row = IpSet(IpSetKey("KUBE-SRC-BENCH"), SetType.HASH_IP, Family.IPV4)
    addresses = [(0x0A000000 + n * 3).to_bytes(4, "big") for n in range(count)]
    batch = Batch(tuple(Member(MemberKey(row.key.name, address, 32)) for address in addresses))
    lines = [f"add {row.key.name} {ip_address(address)}" for address in addresses]
    text = "\n".join([f"create {row.key.name} hash:ip maxelem 1048576", *lines, ""])

    def ours() -> float:
        sets, members = SetDriver(lambda _: True), MemberDriver(lambda _: True)
        with stopwatch() as seconds:
            failed = {**sets.write(Batch((row,))).failed, **members.write(batch).failed}
        assert not failed, failed
        assert len(list(members.read())) == count
        return seconds()

    floor = in_fresh_namespace(lambda: tool(["ipset", "restore"], text))
    return ratio(f"ipset-fill-{count}", in_fresh_namespace(ours), floor, RUNS)


# --- events on a node that stands ------------------------------------------------------------------------------------


@contextmanager
def _loaded(variant: Variant) -> Iterator[Node]:
    """A node with everything in force, in this thread's namespace."""
    node = Node(variant)
    node.load()
    node.world.sync()
    node.check()
    yield node


def _events(node: Node) -> list[Figure]:
    """One event each on the node at its full size, from its bytes to the last answer of the kernel."""
    for raw in (*content.joined(), content.joiner(False), *content.crowd()):
        node.world.feed(raw)
    node.world.sync()

    # What the kernel takes grows with the number of sets, which it searches by name from the first to the last.
    wire = node.world.drivers[Member]._wire
    wire._socket = timed = TimedSocket(wire._socket)
    joining = absolute(
        "pod-joins-20-sets",
        partial(node.event, writes=2 * content.JOINED),
        [content.joiner(turn % 2 == 0) for turn in range(40)],
        lambda: timed.spent,
    )
    relabelled = absolute(
        "label-of-1000-pods",
        partial(node.event, writes=2 * content.CROWD),
        [content.crowd_namespace(turn % 2 == 0) for turn in range(20)],
        lambda: timed.spent,
    )
    return [
        ("firewall-pod-joins-20-sets", joining, 1.0, "ms"),
        ("firewall-label-of-1000-pods", relabelled, 50.0, "ms"),
    ]


def _resync(node: Node) -> list[Figure]:
    """Everything told once more, as after a watch that broke, against `ipset restore -exist` of what the sets hold."""
    saved = output("ipset", "save")
    events = firewall_node.events([*content.namespaces(), *content.pods(), *content.policies()])

    def ours() -> float:
        with stopwatch() as seconds:
            writes = node.take(events)
        assert writes == 0, writes
        return seconds()

    measured = ratio("unchanged-resync", ours, lambda: tool(["ipset", "restore", "-exist"], saved), RUNS)
    return [("firewall-unchanged-resync", measured, 0.05, "ratio")]


# --- the iptables backend --------------------------------------------------------------------------------------------


def _iptables(variant: Variant) -> list[Figure]:
    found = [_first_sync(variant)]
    with fresh_namespace(), _loaded(variant) as node:
        found += [_audit(node), _full_load(node), _one_chain(node, 0.15 if variant is Variant.NFT else 1.1)]
    return found


def _first_sync(variant: Variant) -> Figure:
    """From the bytes of all objects to the kernel, against restoring the very same content with the bare tools."""
    raws = [(raw, kind_of(raw)) for raw in (*content.namespaces(), *content.pods(), *content.policies())]
    saved: list[tuple[list[str], str]] = []

    def ours() -> float:
        node = Node(variant)
        with quiet_collector(), stopwatch() as seconds:
            for raw, kind in raws:
                node.world.feed(raw, kind)
            node.world.sync()
        node.check()
        if not saved:
            saved.append((["ipset", "restore"], output("ipset", "save")))
            for family in Family:
                text = output(node.xtables.tool(family, "save"), "-t", "filter")
                saved.append(([node.xtables.tool(family, "restore"), "--noflush"], text))
        return seconds()

    def floor() -> float:
        return sum(tool(words, text) for words, text in saved)

    in_fresh_namespace(ours)()
    name = f"first-sync-{variant.value}"
    measured = ratio(name, in_fresh_namespace(ours), in_fresh_namespace(floor), RUNS)
    return (f"firewall-{name}", measured, 1.3, "ratio")


def _audit(node: Node) -> Figure:
    """Reading everything and finding nothing to repair, against the tools that print it."""
    words = [["ipset", "save"], *([node.xtables.tool(family, "save")] for family in Family)]
    name = f"audit-{node.xtables.variant.value}"
    measured = ratio(name, node.audit, lambda: sum(tool(each) for each in words), RUNS)
    return (f"firewall-{name}", measured, 1.5, "ratio")


def _full_load(node: Node) -> Figure:
    """All chains in one batch, against restoring the text that they come down to; both over what stands already."""
    chains: tuple[Chain, ...] = tuple(node.world.planner.ledgers[Chain].desired.values())
    driver = ChainDriver(node.xtables, tuple(Family), PREFIXES)
    texts: dict[Family, str] = {}
    for family in Family:
        script = Script(Table.FILTER.value)
        for row in chains:
            if row.key.family is family:
                script.chain(row.key.name, row.rules, row.key, tag=row.tag)
        texts[family] = str(script)

    def ours() -> float:
        with stopwatch() as seconds:
            failed = driver.write(Batch(chains)).failed
        assert not failed, failed
        return seconds()

    def floor() -> float:
        return sum(tool([node.xtables.tool(f, "restore"), "--noflush", "-w", "5"], t) for f, t in texts.items())

    name = f"full-load-{node.xtables.variant.value}"
    return (f"firewall-{name}", ratio(name, ours, floor, RUNS), 1.15, "ratio")


def _one_chain(node: Node, target: float) -> Figure:
    """One chain of a policy changed in the full table, until it is in force, against a restore of that chain alone."""
    driver = ChainDriver(node.xtables, tuple(Family), PREFIXES)
    chains = node.world.planner.ledgers[Chain].desired.values()
    old = next(c for c in chains if c.key.family is Family.IPV4 and any("-g KUBE-NWPLCY-ALLOW" in r for r in c.rules))
    more = [f"-p tcp -m tcp --dport {port} -j RETURN" for port in (1, 2)]
    states = [make_named_chain(old.key, (*old.rules, *more[:count])) for count in (1, 2)]

    def ours() -> float:
        states.reverse()
        with stopwatch() as seconds:
            failed = driver.write(Batch(change=((states[1], states[0]),))).failed
        assert not failed, failed
        return seconds()

    def floor() -> float:
        states.reverse()
        script = Script(Table.FILTER.value)
        script.chain(old.key.name, states[0].rules, old.key, tag=states[0].tag)
        return tool([node.xtables.tool(Family.IPV4, "restore"), "--noflush", "-w", "5"], str(script))

    for _ in range(2):
        # A tool that stays is not started before the second small change.
        ours()
    name = f"one-chain-{node.xtables.variant.value}"
    measured = ratio(name, ours, floor, 20)
    assert {r.key: r for r in driver.read()}[old.key] == states[0], "the chain is not what was written last"
    return (f"firewall-{name}", measured, target, "ratio")


if __name__ == "__main__":
    print(json.dumps(PROCESSES[sys.argv[1]]()))
