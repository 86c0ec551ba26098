"""The nftables backend at the same size as `firewall`, which prints these figures with its own.

The floors are what `nft` itself takes for the very same content: one `nft -f`, and where one small change is measured
also a context of libnftables that stays, for what `nft -f` takes is then mostly its start and its end.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address

from kuberouter.drivers.nftables import ChainDriver, ElementDriver, Nftables, SetDriver, TableDriver
from kuberouter.drivers.nftables.sets import PER_MESSAGE
from kuberouter.model.core import Batch
from kuberouter.model.nftables import (
    TABLE_NAME,
    KeyType,
    NftChain,
    NftElement,
    NftElementKey,
    NftFamily,
    NftSet,
    NftSetKey,
    NftTable,
    NftTableKey,
    make_nft_chain,
)
from kuberouter.wire import nftables as wire
from kuberouter.wire.text.nft import Script
from tests.bench import content
from tests.bench.firewall_node import NftNode
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
ONE_SHOT = ["nft", "-f", "-"]
NFT_NAME = {NftFamily.IPV4: "ip", NftFamily.BRIDGE: "bridge", NftFamily.IPV6: "ip6"}
Figure = tuple[str, float, float, str]
"""Name, value, target, unit."""


def figures_of_nftables() -> list[Figure]:
    """Every figure of the backend."""
    found = [*_filling(), _first_sync()]
    with fresh_namespace(), _loaded() as node:
        found += [_audit(node), _full_load(node), *_one_chain(node)]
    with fresh_namespace(), _loaded() as node:
        found += _events(node)
    return found


# --- sets ------------------------------------------------------------------------------------------------------------


def _filling() -> list[Figure]:
    """Sets, against `nft -f`, and against what the kernel takes for the messages alone.

    An element costs the kernel several times what an entry of an ipset does, half of what it costs `nft -f`: it is put
    into a table that grows with it, for a size that is said in advance would be the most that it may ever hold, and
    whoever listens on this machine is told of each. So the kernel's part is the floor that counts.
    """
    return [figure for count, target in ((10_000, 0.60), (100_000, 0.70)) for figure in _fill(count, target)]


def _fill(count: int, target: float) -> list[Figure]:
    """Making and filling one set, from finished batches to the last answer."""
    table = NftTable(NftTableKey(NftFamily.IPV4))
    row = NftSet(NftSetKey(NftFamily.IPV4, "KUBE-SRC-BENCH"), (KeyType.IPV4_ADDR,))
    addresses = [(0x0A000000 + n * 3).to_bytes(4, "big") for n in range(count)]
    batch = Batch(tuple(NftElement(NftElementKey(row.key, address)) for address in addresses))
    elements = ",".join(str(ip_address(address)) for address in addresses)
    name = f"{NFT_NAME[NftFamily.IPV4]} {TABLE_NAME[NftFamily.IPV4]}"
    text = f"add table {name}\nadd set {name} {row.key.name} {{ type ipv4_addr; elements = {{ {elements} }}; }}\n"
    packed = [
        wire.elements(
            wire.NEWSETELEM, NftFamily.IPV4, TABLE_NAME[NftFamily.IPV4], row.key.name, wire.pack_keys(part, 4)
        )
        for at in range(0, count, PER_MESSAGE)
        if (part := addresses[at : at + PER_MESSAGE])
    ]

    def ours(kernel_alone: bool = False) -> float:
        nftables = Nftables()
        tables, sets, members = TableDriver(nftables), SetDriver(nftables), ElementDriver(nftables)
        with stopwatch() as seconds:
            failed = {**tables.write(Batch((table,))).failed, **sets.write(Batch((row,))).failed}
            if kernel_alone:
                assert not any(nftables.link.commit(packed))
            else:
                failed |= members.write(batch).failed
        assert not failed, failed
        assert len(list(members.read())) == count
        return seconds()

    mine, label = in_fresh_namespace(ours), f"nftables-fill-{count // 1000}k"
    floors = {
        label: (in_fresh_namespace(lambda: tool(ONE_SHOT, text)), target),
        f"{label}-kernel": (in_fresh_namespace(partial(ours, True)), 1.35),
    }
    return [(f"firewall-{n}", ratio(n, mine, floor, RUNS), most, "ratio") for n, (floor, most) in floors.items()]


# --- everything ------------------------------------------------------------------------------------------------------


@contextmanager
def _loaded() -> Iterator[NftNode]:
    """A node with everything in force, in this thread's namespace."""
    node = NftNode()
    node.load()
    node.world.sync()
    node.check()
    yield node


def _first_sync() -> Figure:
    """From the bytes of all objects to the kernel, against one `nft -f` of the very same content."""
    raws = [(raw, kind_of(raw)) for raw in (*content.namespaces(), *content.pods(), *content.policies())]
    saved: list[str] = []

    def ours() -> float:
        node = NftNode()
        with quiet_collector(), stopwatch() as seconds:
            for raw, kind in raws:
                node.world.feed(raw, kind)
            node.world.sync()
        node.check()
        if not saved:
            saved.append(output("nft", "list", "ruleset"))
        return seconds()

    in_fresh_namespace(ours)()
    measured = ratio(
        "first-sync-nftables", in_fresh_namespace(ours), in_fresh_namespace(lambda: tool(ONE_SHOT, saved[0])), RUNS
    )
    return ("firewall-first-sync-nftables", measured, 1.3, "ratio")


def _audit(node: NftNode) -> Figure:
    """Reading everything and finding nothing to repair, against the tool that prints it."""
    words = [["nft", "list", "table", NFT_NAME[family], TABLE_NAME[family]] for family in NftFamily]
    measured = ratio("audit-nftables", node.audit, lambda: sum(map(tool, words)), RUNS)
    return ("firewall-audit-nftables", measured, 1.5, "ratio")


def _full_load(node: NftNode) -> Figure:
    """All chains in one batch, against `nft -f` of the text that they come down to; both over what stands already."""
    chains: tuple[NftChain, ...] = tuple(node.world.planner.ledgers[NftChain].desired.values())
    driver = ChainDriver(node.nftables)
    script = Script(NftFamily.IPV4)
    for row in chains:
        script.chain(row)
    text = str(script)

    def ours() -> float:
        with stopwatch() as seconds:
            failed = driver.write(Batch(chains)).failed
        assert not failed, failed
        return seconds()

    measured = ratio("full-load-nftables", ours, lambda: tool(ONE_SHOT, text), RUNS)
    return ("firewall-full-load-nftables", measured, 1.15, "ratio")


def _one_chain(node: NftNode) -> list[Figure]:
    """One chain of a policy changed in the full tables, until it is in force, against that chain alone by the tool."""
    driver = ChainDriver(node.nftables)
    chains = node.world.planner.ledgers[NftChain].desired.values()
    policies = (c for c in chains if c.key.family is NftFamily.IPV4 and c.hook is None)
    old = next(c for c in policies if any("saddr @KUBE-SRC" in rule for rule in c.rules))
    states = [make_nft_chain(old.key, (*old.rules, f"tcp dport {port} accept")) for port in (1, 2)]
    kept = _Kept()

    def ours() -> float:
        states.reverse()
        with stopwatch() as seconds:
            failed = driver.write(Batch(change=((states[1], states[0]),))).failed
        assert not failed, failed
        return seconds()

    def by(apply: Callable[[str], float]) -> float:
        states.reverse()
        script = Script(NftFamily.IPV4)
        script.chain(states[0])
        return apply(str(script))

    found = [
        (f"firewall-{name}", ratio(name, ours, partial(by, apply), 20), target, "ratio")
        for name, apply, target in (
            ("one-chain-nftables", partial(tool, ONE_SHOT), 0.15),
            ("one-chain-nftables-kept", kept.seconds, 1.0),
        )
    ]
    assert {r.key: r for r in driver.read()}[old.key] == states[0], "the chain is not what was written last"
    return found


class _Kept:
    """A context of libnftables that stays, by itself as the tools would use it."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libnftables.so.1")
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._run = library.nft_run_cmd_from_buffer
        self._context = library.nft_ctx_new(0)

    def seconds(self, text: str) -> float:
        """Seconds that a script takes."""
        data = text.encode()
        with stopwatch() as seconds:
            status = self._run(self._context, data)
        assert status == 0, os.strerror(-status)
        return seconds()


# --- events on a node that stands ------------------------------------------------------------------------------------


def _events(node: NftNode) -> list[Figure]:
    """One event each on the node at its full size, from its bytes to the last answer of the kernel."""
    for raw in (*content.joined(), content.joiner(False), *content.crowd()):
        node.world.feed(raw)
    node.world.sync()
    link = node.nftables.link
    link._socket = timed = TimedSocket(link._socket)  # type: ignore[assignment]
    joining = absolute(
        "pod-joins-20-sets-nftables",
        partial(node.event, writes=2 * content.JOINED),
        [content.joiner(turn % 2 == 0) for turn in range(40)],
        lambda: timed.spent,
    )
    relabelled = absolute(
        "label-of-1000-pods-nftables",
        partial(node.event, writes=2 * content.CROWD),
        [content.crowd_namespace(turn % 2 == 0) for turn in range(20)],
        lambda: timed.spent,
    )
    return [
        ("firewall-pod-joins-20-sets-nftables", joining, 1.0, "ms"),
        ("firewall-label-of-1000-pods-nftables", relabelled, 50.0, "ms"),
    ]


if __name__ == "__main__":
    from tests.bench.__main__ import line

    for figure in figures_of_nftables():
        print(line(figure), flush=True)
