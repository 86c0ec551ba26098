"""What is tried with each router. In order: each leaves the arena as it found it, but for what it says."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from kuberouter.sources.sessions import UP
from kuberouter.wire.gobgp.client import Connection
from kuberouter.wire.gobgp.gobgpd import Gobgp
from tests.interop.arena import (
    OTHER,
    RESTART,
    SESSION,
    STRANGE,
    STRANGE_SERVICE,
    TOLD4,
    TOLD6,
    VIP,
    Arena,
    Wrong,
    expect,
    wait,
)
from tests.support.lab import Node
from tests.support.routers import Router

LIVE = 10.0
"""Seconds within which a router has heard of a change."""


class Skip(Exception):
    """A check cannot be made here; the text says why."""


@dataclass(frozen=True)
class Check:
    """`run` returns what was seen, or raises Wrong or Skip."""

    title: str
    run: Callable[[Arena, str], str]
    short: bool = False
    """Whether the lane of every day has it."""
    special: bool = False
    """Whether it needs a router of its own, which only the makes of `ROUTERS` have."""
    only: str = ""
    """The one router that it is about; empty is each."""


def _session(arena: Arena, router: Router, family: int) -> str:
    pods, where = "fd44:{}::/64" if family == 6 else "10.244.{}.0/24", 1 if family == 6 else 0
    for node in arena.lab.nodes:
        address = arena.speaking(node, family)
        stands(router, address)
        prefix = pods.format(node.site.number)
        _pods(router, prefix, node.site.addresses[where])
    return f"{len(arena.lab.nodes)} sessions, pod CIDRs in the kernel"


def _pods(router: Router, prefix: str, address: str) -> None:
    """A node's pods are heard of from it alone, and in the kernel by way of it."""
    wait(lambda: router.heard(prefix), f"nothing heard of {prefix}", SESSION)
    (path,) = router.heard(prefix)
    expect((path.next_hop, path.as_path), (address, (64512,)), f"path to {prefix}")
    wait(lambda: router.next_hops(prefix), f"{prefix} is not in the kernel", 5)
    expect(router.next_hops(prefix), {address}, f"route to {prefix}")


def stands(router: Router, address: str, *, settled: bool = False) -> float:
    """Wait until a session with an address stands, and if so wished nothing of it is stale."""
    ask = router.settled if settled else router.established
    return wait(lambda: ask(address), f"no session with {address}", SESSION)


def ipv4(arena: Arena, software: str) -> str:
    """Sessions with a password, pod CIDRs with the node as next hop. A peer's own local address is no problem."""
    seen = _session(arena, arena.near[software], 4)
    told = [line for line in (arena.lab.node("node3").home / "daemon.log").read_text().splitlines() if OTHER in line]
    expect(told, [], "what the node's log says of its other address")
    return seen


def ipv6(arena: Arena, software: str) -> str:
    """The same over IPv6."""
    return _session(arena, arena.near[software], 6)


def told(arena: Arena, software: str) -> str:
    """What the router tells is in the kernels of the nodes."""
    router = arena.near[software]
    for node in arena.lab.nodes:
        for prefix, own in zip((TOLD4, TOLD6), router.addresses, strict=True):
            family = "-6" if ":" in prefix else "-4"
            look = f"ip {family} route show {prefix} proto 17"
            _routed(node, look, f"via {own} ", prefix)
    return "on every node, proto 17"


def _routed(node: Node, look: str, words: str, prefix: str) -> None:
    wait(lambda: words in node.sh(look), f"{node.name} has no {prefix}")


def ecmp(arena: Arena, software: str) -> str:
    """A VIP that three nodes serve has three next hops, and two when one of them has no endpoint any more."""
    router, lab = arena.near[software], arena.lab
    arena.serve()
    every = {node.ip for node in lab.nodes}
    took = wait(lambda: router.next_hops(VIP) == every, lambda: f"next hops {router.next_hops(VIP)}")
    if arena.full:
        pod = lab.pods["default/web-2"]
        pod.ready = False
        lab.update(pod)
        wait(
            lambda: router.next_hops(VIP) == every - {lab.node("node2").ip},
            lambda: f"next hops {router.next_hops(VIP)}",
        )
        pod.ready = True
        lab.update(pod)
        wait(lambda: router.next_hops(VIP) == every, lambda: f"next hops {router.next_hops(VIP)}")
    return f"{len(every)} next hops after {took:.1f} s"


def filters(arena: Arena, software: str) -> str:
    """A router with prefix lists takes nothing else that nodes tell, and tells them nothing else."""
    router, lab = arena.near[software], arena.lab
    others = [other for name, other in arena.near.items() if name != software]
    arena.serve()
    lab.apply(STRANGE_SERVICE)
    for other in others:
        wait(lambda: other.heard(STRANGE), f"{other.name} hears nothing of {STRANGE}")  # noqa: B023
    wait(lambda: router.heard(VIP), f"nothing heard of {VIP}")
    expect(router.heard(STRANGE), [], f"what the filter lets in of {STRANGE}")
    lab.delete("Service", "default", "strange")
    for other in others:
        wait(lambda: not other.heard(STRANGE), f"{other.name} keeps {STRANGE}")  # noqa: B023
    return f"{STRANGE} refused, {VIP} taken"


def communities(arena: Arena, software: str) -> str:
    """Communities of an annotation, live."""
    router, node = arena.near[software], arena.lab.node("node1")
    arena.say(node, node_bgp_communities="65000:100,no-advertise")
    wanted = {"65000:100", "no-advertise"}
    wait(lambda: _marks(router, "10.244.1.0/24") == wanted, lambda: f"seen {_marks(router, '10.244.1.0/24')}", LIVE)
    arena.say(node)
    wait(lambda: not _marks(router, "10.244.1.0/24"), "they stay", LIVE)
    return ", ".join(sorted(wanted))


def _marks(router: Router, prefix: str) -> set[str]:
    return {_hyphens(mark) for path in router.heard(prefix) for mark in path.communities}


def _hyphens(mark: str) -> str:
    return {"noAdvertise": "no-advertise", "noExport": "no-export"}.get(mark, mark)


def prepend(arena: Arena, software: str) -> str:
    """AS path prepending of an annotation, live."""
    router, node = arena.near[software], arena.lab.node("node1")
    paths: Callable[[], list[tuple[int, ...]]] = lambda: [p.as_path for p in router.heard("10.244.1.0/24")]  # noqa: E731
    arena.say(node, path__prepend_as="64700", path__prepend_repeat__n="2")
    wait(lambda: paths() == [(64700, 64700, 64512)], lambda: f"seen {paths()}", LIVE)
    arena.say(node)
    wait(lambda: paths() == [(64512,)], lambda: f"seen {paths()}", LIVE)
    return "64700 64700 64512"


def multihop(arena: Arena, software: str) -> str:
    """A router that is a hop away has sessions with the nodes that have the flag, and with no other."""
    router = arena.far[software]
    for node in arena.lab.nodes[:2]:
        for family in (4, 6):
            address = arena.speaking(node, family)
            stands(router, address)
    wait(lambda: router.heard("10.244.1.0/24"), "nothing heard", LIVE)
    without = arena.lab.node("node3")
    expect(
        [router.established(arena.speaking(without, family)) for family in (4, 6)], [False, False], "without the flag"
    )
    return "TTL 5; none without"


def bfd(arena: Arena, software: str) -> str:
    """BFD sees within a second or two that a router is gone, and the session ends with it."""
    router, node = arena.watched[software], arena.lab.node("node2")
    log = node.home / "daemon.log"
    address = arena.speaking(node, 4)
    stands(router, address)
    if "has no BFD" in log.read_text():
        raise Skip("gobgpd 3 has no BFD, which the log says; the session runs without")
    wait(lambda: router.bfd(address), "BFD is not up", 20)
    router.plug(arena.lab.fabric, into=False)
    try:
        took = wait(lambda: not established(node, router.addresses[0]), "the session stays", 10)
    finally:
        router.plug(arena.lab.fabric, into=True)
    stands(router, address)
    return f"up; the session ended {took:.1f} s after the wire was cut"


def established(node: Node, address: str) -> bool:
    """Whether a node's session with a router stands, as gobgpd has it."""
    api = Gobgp(Connection(f"unix://{node.run}/kube-router/gobgp.sock")).api
    return any(each.address == ip_address(address).packed and each.state == UP for each in api.session_states())


@contextmanager
def routes_of(router: Router) -> Iterator[list[str]]:
    """What happens to the routes of a router's kernel; whole when it ends."""
    words = ["ip", "-n", router.namespace, "-o", "monitor", "route"]
    ear = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    heard: list[str] = []
    try:
        time.sleep(0.3)
        yield heard
    finally:
        ear.terminate()
        heard += ear.communicate(timeout=10)[0].splitlines()


def restart(arena: Arena, software: str) -> str:
    """gobgpd is killed and comes back within the restart time: no route is ever away."""
    router, node = arena.near[software], arena.lab.node("node2")
    assert node.gobgpd is not None
    address = arena.speaking(node, 4)
    with routes_of(router) as said:
        node.gobgpd.stop(9)
        wait(lambda: not router.established(address), "the session stays", LIVE)
        expect(router.next_hops("10.244.2.0/24"), {node.ip}, "route while gobgpd is away")
        node.start_gobgpd()
        took = stands(router, address)
        time.sleep(2.0)
    gone = [line for line in said if line.startswith("Deleted 10.244.2.0/24")]
    expect(gone, [], "routes that were away")
    expect(router.next_hops("10.244.2.0/24"), {node.ip}, "route after the restart")
    _settled(arena)
    return f"no route away; session after {took:.1f} s"


def stale(arena: Arena, software: str) -> str:
    """gobgpd is killed and stays away: its routes stay for the restart time, and no longer."""
    router, node = arena.near[software], arena.lab.node("node2")
    assert node.gobgpd is not None
    node.gobgpd.stop(9)
    began = time.monotonic()
    try:
        wait(lambda: not router.next_hops("10.244.2.0/24"), "stale routes stay", RESTART + 10)
        took = time.monotonic() - began
        if took < RESTART - 1.5:
            raise Wrong(f"routes went after {took:.1f} s, not after {RESTART}")
    finally:
        node.start_gobgpd()
    wait(lambda: router.next_hops("10.244.2.0/24"), "no route again", SESSION)
    _settled(arena)
    return f"kept for {took:.1f} s of {RESTART}"


def _settled(arena: Arena) -> None:
    """Wait until everybody is back with everybody, so that the next check is not about this one."""
    node = arena.lab.node("node2")
    for router in arena.near.values():
        for family in (4, 6):
            address = arena.speaking(node, family)
            stands(router, address, settled=True)
        # A session stands before all is told.
        wait(lambda: router.next_hops("10.244.2.0/24"), f"no route again on {router.name}", SESSION)  # noqa: B023


def password(arena: Arena, software: str) -> str:
    """A wrong password: no session, and we say so; the right one mends it."""
    router, node = arena.near[software], arena.lab.node("node1")
    address = arena.speaking(node, 4)
    log = node.home / "daemon.log"
    before = len(log.read_text())
    arena.password(node, router, "wrong")
    wait(lambda: not router.established(address), "the session stays", LIVE)
    said = f"no BGP session with {router.addresses[0]}"
    new: Callable[[], str] = lambda: log.read_text()[before:]  # noqa: E731
    took = wait(lambda: said in new() and "password" in new(), lambda: f"the log has: {new()}", 45)
    expect(router.established(address), False, "session with the wrong password")
    arena.password(node, router, "secret")
    stands(router, address)
    return f"no session, told after {took:.0f} s"


def next_hop(arena: Arena, software: str) -> str:
    """With --override-nexthop the next hop is the address that speaks. Leaves the third node so."""
    router, node = arena.near[software], arena.lab.node("node3")
    seen: Callable[[], set[str]] = lambda: {path.next_hop for path in router.heard("10.244.3.0/24")}  # noqa: E731
    if "--override-nexthop" not in node.daemon_arguments:
        expect(seen(), {node.ip}, "next hop without the flag")
        node.daemon_arguments.append("--override-nexthop")
        node.restart_daemon()
    wait(lambda: seen() == {OTHER}, lambda: f"next hop {seen()}", SESSION)
    return f"{OTHER} instead of {node.ip}"


def reflector(arena: Arena, software: str) -> str:
    """Nodes that do not peer with each other, and a router of their own AS that passes on what they tell. Leaves it so.

    The router before it, if any, is no peer any more: what it told goes with it.
    """
    router, nodes = arena.inside[software], arena.lab.nodes
    arena.reflect(software)
    for node in nodes:
        if "--enable-ibgp=false" not in node.daemon_arguments:
            node.daemon_arguments.append("--enable-ibgp=false")
            node.restart_daemon()
    for node in nodes:
        _alone(node, {other.ip for other in nodes if other is not node})
        for family in (4, 6):
            stands(router, arena.speaking(node, family))
    for node in nodes:
        for other in nodes:
            if other is not node:
                _reflected(node, other)
    expect({path.as_path for path in router.heard("10.244.1.0/24")}, {()}, "AS path within the AS")
    return "pods of all nodes by way of it, next hops kept"


def _alone(node: Node, others: set[str]) -> None:
    wait(lambda: not any(established(node, other) for other in others), f"{node.name} peers with nodes", SESSION)


def _reflected(node: Node, other: Node) -> None:
    """A node has another one's pods by way of that other. Nobody but the reflector can have told it of them."""
    for family, address in zip((4, 6), other.site.addresses, strict=True):
        prefix = other.site.pod_cidrs[family == 6]
        _routed(node, f"ip -{family} route show {prefix} proto 17", f"via {address} ", prefix)


CHECKS: tuple[Check, ...] = (
    Check("IPv4 session, MD5", ipv4, short=True),
    Check("IPv6 session, MD5", ipv6, short=True),
    Check("routes taken", told, short=True),
    Check("ECMP to a VIP", ecmp, short=True),
    Check("prefix lists", filters, only="switch"),
    Check("communities", communities, short=True),
    Check("AS path prepend", prepend),
    Check("multihop", multihop, special=True),
    Check("BFD", bfd, special=True),
    Check("GR: restart", restart),
    Check("GR: stale routes go", stale),
    Check("wrong password", password),
    Check("iBGP, reflector", reflector, special=True),
    Check("next hop self", next_hop),
)
