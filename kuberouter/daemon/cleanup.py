"""`kube-router --cleanup-config`: nothing is desired, so whatever a driver reads and owns is taken away.

Nobody is asked but the kernel and some files: no apiserver, no gobgpd. What is where is written down before anything is
removed, for by what there is one kube-router's leavings are told from others' things. Afterwards it is looked at again.
"""

from __future__ import annotations

import enum
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from kuberouter.compilers.names import BRIDGE_LINK, DUMMY_LINK, TUNNEL_PREFIX, TUNNEL_TABLE
from kuberouter.daemon.commandline import Parsed
from kuberouter.daemon.config import port_range
from kuberouter.daemon.configreader import Reader
from kuberouter.daemon.configrouter import CNI_VARIABLE, DEFAULT_CNI_FILE
from kuberouter.daemon.parts.firewall import CHAINS, SETS
from kuberouter.daemon.parts.proxy import PROXY_CHAINS, PROXY_SETS, of_the_go_kube_router
from kuberouter.daemon.parts.router import ROUTER_SETS
from kuberouter.daemon.presence import announce
from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.drivers.former import FormerChainDriver, FormerHookDriver, unseen
from kuberouter.drivers.formerdirect import FormerDirectDriver
from kuberouter.drivers.formeregress import FormerEgressDriver
from kuberouter.drivers.formerpolicy import FormerPolicyDriver
from kuberouter.drivers.formerproxy import FIRST_SETS, HAIRPIN_CHAIN, FormerProxyDriver
from kuberouter.drivers.fouports import LeftFouPortDriver
from kuberouter.drivers.ipsets import SetDriver
from kuberouter.drivers.iptables import Variant, Xtables
from kuberouter.drivers.ipvs import DestinationDriver, VirtualServiceDriver
from kuberouter.drivers.leftovers import LeftFileDriver, LeftLinkDriver
from kuberouter.drivers.network import LinkDriver, PolicyRuleDriver, RouteDriver
from kuberouter.drivers.nftables import FormerTableDriver, Nftables
from kuberouter.drivers.ownership import GoServices, Ownership
from kuberouter.drivers.podnetns import LeftReceiverDriver
from kuberouter.model.core import Batch, Family, Outcome, Prefix, Unavailable
from kuberouter.model.network import TABLE_MAIN

NAMES = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
CNI_FILES = (DEFAULT_CNI_FILE, f"{DEFAULT_CNI_FILE}list")
SETTINGS = "kernel settings (sysctl) stay as they are: what they were before is not known"


class Level(enum.IntEnum):
    """How much is taken off; each with what comes before it."""

    RULES = 0
    LINKS = 1
    ALL = 2


class Piece(NamedTuple):
    """A kind of things, with who finds and removes them, and how one of them is called."""

    title: str
    level: Level
    make: Callable[[], Any]
    show: Callable[[Any], str]


class _Found(NamedTuple):
    piece: Piece
    driver: Any
    rows: tuple[Any, ...]


def cleanup(parsed: Parsed, *, say: Callable[[str], None] = print) -> int:
    """Clean this node up, or list what that would do. The exit code: 0 if nothing of ours is left."""
    reader = Reader(parsed)
    chosen = reader.choice("cleanup-level", tuple(level.name.lower() for level in Level))
    excluded = reader.prefixes("excluded-cidrs", tuple(Family))
    text = reader.flag("service-node-port-range", str)
    node_ports = reader.checked("service-node-port-range", port_range, text)
    if reader.errors or node_ports is None:
        print("\n".join(reader.errors), file=sys.stderr)
        return 1
    tunnel_port = reader.flag("overlay-encap-port", int)
    dry_run = reader.flag("dry-run", bool)
    presence = announce()
    if presence is None:
        told = "a kube-router runs on this node and would make anew what is taken away; stop it first"
        print(told, file=sys.stderr)
        if not dry_run:
            return 1
    files = (*filter(None, (os.environ.get(CNI_VARIABLE),)), *CNI_FILES)
    try:
        blind = tuple(unlooked())
        for text in blind:
            print(text, file=sys.stderr)
        code = clean(pieces(excluded, node_ports, tunnel_port, files), Level[chosen.upper()], dry_run=dry_run, say=say)
        return 1 if blind else code
    except PermissionError as error:
        print(f"this takes the capability NET_ADMIN: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        if presence is not None:
            presence.close()


def unlooked() -> Iterator[str]:
    """Of what there is that cannot be looked at, so that nobody can say that nothing is left."""
    for variant in Variant:
        for family in Family:
            if why := unseen(Xtables(variant), family):
                yield f"{NAMES[family]} rules of iptables-{variant.value} cannot be looked at: {why}"


def clean(wanted: Sequence[Piece], level: Level, *, dry_run: bool, say: Callable[[str], None]) -> int:
    """Take away what is found of these pieces, in their order; the exit code."""
    found = [each for piece in wanted if piece.level <= level and (each := _look(piece, say)) is not None]
    total = 0
    for piece, _, rows in found:
        for row in rows:
            say(f"{'found' if dry_run else 'removing'} {piece.title}: {piece.show(row)}")
            total += 1
    if dry_run:
        say(f"{total} things would be removed; nothing is changed")
        return 0
    refused = {(piece.title, key): why for piece, driver, rows in found for key, why in _remove(driver, rows).items()}
    left = 0
    for piece, driver, _ in found:
        for row in _owned(driver):
            why = refused.get((piece.title, row.key), "")
            say(f"still there: {piece.title} {piece.show(row)}{f' ({why})' if why else ''}")
            left += 1
    if total:
        say(SETTINGS)
    say(f"{total - left} of {total} things removed" if total else "nothing of a kube-router is here")
    return 1 if left else 0


def _look(piece: Piece, say: Callable[[str], None]) -> _Found | None:
    try:
        driver = piece.make()
        return _Found(piece, driver, tuple(_owned(driver)))
    except Unavailable as error:
        say(f"skipped {piece.title}: {error}")
        return None


def _owned(driver: Any) -> Iterable[Any]:
    try:
        return [row for row in driver.read() if driver.owns(row)]
    except OSError as error:
        if error.errno == errno.ENOENT:
            # So the kernel says that there is no such routing table.
            return []
        raise Unavailable(f"cannot be read: {error.strerror}") from error


def _remove(driver: Any, rows: tuple[Any, ...]) -> dict[Any, str]:
    if not rows:
        return {}
    try:
        outcome: Outcome = driver.write(Batch(remove=rows))
    except (Unavailable, OSError) as error:
        return {row.key: str(error) for row in rows}
    return dict(outcome.failed)


# --- what there may be, in the order in which it goes: what leads somewhere before what it leads to -------------------


def pieces(
    excluded: tuple[Prefix, ...], node_ports: tuple[int, int], tunnel_port: int, files: Sequence[str]
) -> tuple[Piece, ...]:
    """Everything that a kube-router may have left on a node."""
    variants = tuple(Xtables(variant) for variant in Variant)
    tools = tuple((lambda xtables=xtables: xtables) for xtables in variants)
    places = [(xtables, tuple(Family)) for xtables in variants]
    families = tuple(Family)
    addresses = AddressDriver((DUMMY_LINK,), excluded=excluded)
    destinations = DestinationDriver(Ownership())
    go_services = GoServices(addresses.former, addresses.everywhere, node_ports, destinations.plain)
    services = Ownership(former=go_services.among, excluded=excluded)
    chains = (*CHAINS, *PROXY_CHAINS, HAIRPIN_CHAIN)
    sets = (*SETS, *PROXY_SETS, *FIRST_SETS, *ROUTER_SETS)
    rules, links, everything = Level.RULES, Level.LINKS, Level.ALL
    return (
        Piece("direct return in a pod", links, LeftReceiverDriver, _receiver),
        Piece("virtual service", rules, lambda: VirtualServiceDriver(services), lambda row: _service(row.key)),
        Piece("rule in a builtin chain", rules, lambda: FormerHookDriver(places), _hook),
        Piece("policy rules of the Go kube-router", rules, lambda: FormerPolicyDriver(tools, families), _family),
        Piece("proxy rules of the Go kube-router", rules, lambda: FormerProxyDriver(tools, families), _family),
        Piece("egress rules of the Go kube-router", rules, lambda: FormerEgressDriver(tools, families), _family),
        Piece(
            "direct return of the Go kube-router",
            rules,
            lambda: FormerDirectDriver(tools, families, of_the_go_kube_router),
            _family,
        ),
        Piece("chain", rules, lambda: FormerChainDriver(places, chains), _chain),
        Piece("nftables table", rules, lambda: FormerTableDriver(Nftables()), lambda row: row.key.family.name.lower()),
        Piece("set", rules, lambda: SetDriver(lambda name: name.removeprefix("inet6:").startswith(sets)), _set),
        Piece("address", links, lambda: addresses, lambda row: f"{_address(row.key.address)} on {row.key.link}"),
        Piece("local route", links, lambda: LocalRouteDriver(excluded=excluded), lambda r: _address(r.key.address)),
        Piece("route", links, lambda: RouteDriver((TABLE_MAIN, TUNNEL_TABLE)), _route),
        Piece("policy routing rule", links, lambda: PolicyRuleDriver((TUNNEL_TABLE,)), _rule),
        Piece("UDP port of tunnels", links, lambda: LeftFouPortDriver((TUNNEL_PREFIX,), tunnel_port), _port),
        Piece("tunnel", links, lambda: LinkDriver((), (TUNNEL_PREFIX,)), lambda row: row.key.name),
        Piece("link", links, lambda: LeftLinkDriver((DUMMY_LINK,), (DUMMY_LINK,)), lambda row: row.key.name),
        Piece("bridge of pods", everything, lambda: LinkDriver((BRIDGE_LINK,)), lambda row: row.key.name),
        Piece("file", everything, lambda: LeftFileDriver(files, BRIDGE_LINK), _file),
    )


def _family(row: Any) -> str:
    return NAMES[row.key.family]


def _address(packed: bytes) -> str:
    return str(ip_address(packed))


def _receiver(row: Any) -> str:
    vip = f" for {_address(row.key.vip)}" if row.key.vip else ""
    return f"{_address(row.key.pod)}{vip} ({row.container})"


def _service(key: Any) -> str:
    if key.mark:
        return f"mark {key.mark:#x}, {NAMES[key.family]}"
    address = _address(key.address)
    return f"{f'[{address}]' if ':' in address else address}:{key.port}/{key.protocol.name}"


def _hook(row: Any) -> str:
    return f"{NAMES[row.key.family]} {row.key.table} {row.key.chain}: {row.key.text or 'of a tag of ours'}"


def _chain(row: Any) -> str:
    return f"{NAMES[row.key.family]} {row.key.table} {row.key.name}"


def _set(row: Any) -> str:
    return str(row.key.name)


def _route(row: Any) -> str:
    table = "" if row.key.table == TABLE_MAIN else f" in table {row.key.table}"
    return f"{row.key.prefix}{table}"


def _port(row: Any) -> str:
    return f"{row.key.port}, {NAMES[row.key.family]}"


def _rule(row: Any) -> str:
    return f"from {row.key.source} lookup {row.key.table}"


def _file(row: Any) -> str:
    return f"{row.key.path}: {row.key.line}" if row.key.line else str(row.key.path)
