"""Packets of flows through the rows of a world, by a small interpreter instead of a kernel; both backends.

It knows the words that our compilers use and no others: a rule with a word that it does not know is an error, so that
no test passes because a match was overlooked.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import cache
from ipaddress import ip_address, ip_network
from typing import NamedTuple, Protocol

from kuberouter.model.core import Family, family_of
from kuberouter.model.netfilter import Chain, ChainKey, Member, Table
from kuberouter.model.nftables import (
    NftChain,
    NftChainKey,
    NftElement,
    NftFamily,
    NftSetKey,
    NftVerdict,
    packed_link,
    packed_port,
)
from tests.support.world import World

NUMBER = {"tcp": 6, "udp": 17, "sctp": 132}
BRIDGE = "kube-bridge"
FOREIGN_MARKS = 0xFFFFFFFF
"""Marks that a packet brings along: all of them."""


class Packet(NamedTuple):
    """A packet of a flow, its first if nothing else is said. For ICMP `port` is the type."""

    source: bytes
    target: bytes
    protocol: str
    port: int
    link: str = "eth0"
    """What it comes in by; `lo` where the node speaks to itself."""
    bridged: bool = False
    """The link is a port of the pods' bridge."""
    known: bool = False
    """The kernel knows the flow, and has seen answers."""
    answer: bool = False
    """It goes to the end that began the flow."""
    opening: bool = True
    """Of the TCP flags it has SYN only."""

    @property
    def family(self) -> Family:
        return family_of(self.source)

    @property
    def incoming(self) -> str:
        """The link that the hooks of IP see."""
        return BRIDGE if self.bridged else self.link


class Verdicts(Protocol):
    """What stands on a node, asked about one packet at a hook: INPUT, FORWARD or OUTPUT."""

    walked: int
    """How many rules the last packet has met."""
    connmark: int
    """The mark of the one flow whose packets are asked about."""
    refusal: str
    """How the last packet was refused: `drop`, `reset` or `icmp`."""

    def passes(self, hook: str, packet: Packet) -> bool:
        """Whether our rules let it go on to everybody else's."""


def packet(source: str, target: str, protocol: str, port: int, link: str = "eth0", *, bridged: bool = False) -> Packet:
    """A packet between two addresses as text."""
    return Packet(ip_address(source).packed, ip_address(target).packed, protocol, port, link, bridged)


def verdicts(world: World, local: tuple[str, ...] = ()) -> Verdicts:
    """What stands in a world; `local` are addresses that the node has on some link."""
    addresses = frozenset(ip_address(text).packed for text in local)
    return Iptables(world, addresses) if Chain in world.drivers else Nftables(world, addresses)


class _Refused(Exception):
    """The packet met DROP or REJECT; the argument says how it is refused."""

    def __init__(self, rule: str) -> None:
        reset = "tcp-reset" in rule or "tcp reset" in rule
        super().__init__("reset" if reset else "icmp" if "reject" in rule.lower() else "drop")


@cache
def _block(text: str) -> tuple[Family, int, int]:
    """Family, value and shift of a CIDR block or an address."""
    network = ip_network(text)
    shift = network.max_prefixlen - network.prefixlen
    family = Family.IPV4 if network.version == 4 else Family.IPV6
    return family, int(network.network_address) >> shift, shift


def _inside(address: bytes, block: str) -> bool:
    family, value, shift = _block(block)
    return family_of(address) is family and int.from_bytes(address, "big") >> shift == value


# --- iptables --------------------------------------------------------------------------------------------------------

Match = tuple[str, str, str, bool]
"""Module, option, its words and whether it is negated."""
WORDS = {"--match-set": 2, "--tcp-flags": 2}


@cache
def _parsed(rule: str) -> tuple[tuple[Match, ...], str, str, str]:
    """Matches, the way on (-j or -g), its target and the rest."""
    words = shlex.split(rule)
    matches: list[Match] = []
    module, negated, at = "", False, 0
    while words[at] not in ("-j", "-g"):
        if words[at] == "!":
            negated, at = True, at + 1
        elif words[at] == "-m":
            module, at = words[at + 1], at + 2
        else:
            option, count = words[at], WORDS.get(words[at], 1)
            matches.append((module, option, " ".join(words[at + 1 : at + 1 + count]), negated))
            negated, at = False, at + 1 + count
    return tuple(matches), words[at], words[at + 1], words[-1]


def _is_link(name: str, text: str) -> bool:
    return name.startswith(text[:-1]) if text.endswith("+") else name == text


class Iptables:
    """The filter table."""

    def __init__(self, world: World, local: frozenset[bytes] = frozenset()) -> None:
        self._chains: Mapping[ChainKey, Chain] = dict(world.table(Chain))
        self._local = local
        self._sets: dict[str, set[tuple[int, int, int, int]]] = {}
        for key in world.table(Member):
            value = int.from_bytes(key.address, "big") >> (len(key.address) * 8 - key.length)
            self._sets.setdefault(key.set, set()).add((key.length, value, key.protocol, key.port))
        self._mark = 0
        self.walked = self.connmark = 0
        self.refusal = ""

    def passes(self, hook: str, packet: Packet) -> bool:
        """Whether our rules let it go on to everybody else's."""
        self._mark, self.walked, self.refusal = FOREIGN_MARKS, 0, ""
        try:
            self._walk(f"KUBE-ROUTER-{hook}", packet)
        except _Refused as refused:
            self.refusal = str(refused)
            return False
        return True

    def _walk(self, name: str, packet: Packet) -> None:
        for rule in self._chains[ChainKey(packet.family, Table.FILTER, name)].rules:
            self.walked += 1
            matches, way, target, last = _parsed(rule)
            if not all(self._matches(m, option, text, packet) is not no for m, option, text, no in matches):
                continue
            match target:
                case "REJECT" | "DROP":
                    raise _Refused(rule)
                case "RETURN":
                    return
                case "MARK" | "CONNMARK":
                    value, mask = (int(part, 16) for part in last.split("/"))
                    if target == "MARK":
                        self._mark = (self._mark & ~mask) ^ value
                    else:
                        self.connmark = (self.connmark & ~mask) ^ value
                case "NFLOG":
                    pass
                case chain:
                    self._walk(chain, packet)
                    if way == "-g":
                        return

    def _matches(self, module: str, option: str, text: str, packet: Packet) -> bool:
        match option:
            case "-p":
                return packet.protocol == text
            case "-s" | "-d":
                return _inside(packet.source if option == "-s" else packet.target, text)
            case "-i":
                return _is_link(packet.incoming, text)
            case "--physdev-in":
                return packet.bridged and _is_link(packet.link, text)
            case "--src-type" | "--dst-type" if text == "LOCAL":
                return (packet.source if option == "--src-type" else packet.target) in self._local
            case "--icmp-type" | "--icmpv6-type":
                return packet.port == int(text)
            case "--ctstate":
                return ("ESTABLISHED" if packet.known else "NEW") in text.split(",")
            case "--ctdir":
                return text == ("REPLY" if packet.answer else "ORIGINAL")
            case "--ctstatus" if text == "EXPECTED":
                return False
            case "--tcp-flags" if text == "FIN,SYN,RST,ACK SYN":
                return packet.opening
            case "--mark":
                value, mask = (int(part, 16) for part in text.split("/"))
                return (self._mark if module == "mark" else self.connmark) & mask == value
            case "--dport" | "--dports":
                spans = [part.split(":") for part in text.split(",")]
                return any(int(span[0]) <= packet.port <= int(span[-1]) for span in spans)
            case "--match-set":
                name, flags = text.split(" ")
                return self._contains(name, flags, packet)
            case "--limit" | "--limit-burst":
                return True
        raise ValueError(f"{option} {text} is not known")

    def _contains(self, name: str, flags: str, packet: Packet) -> bool:
        address = packet.source if flags == "src" else packet.target
        value, bits = int.from_bytes(address, "big"), len(address) * 8
        number, port = (NUMBER.get(packet.protocol, 0), packet.port) if flags == "dst,dst" else (0, 0)
        held = self._sets.get(name, set())
        return any((length, value >> (bits - length), number, port) in held for length in {e[0] for e in held})


# --- nftables --------------------------------------------------------------------------------------------------------

LAYER = {Family.IPV4: NftFamily.IPV4, Family.IPV6: NftFamily.IPV6}


class Seen(NamedTuple):
    """A packet where a chain meets it: the family of the table, and the link that is seen there."""

    tables: Nftables
    layer: NftFamily
    packet: Packet
    link: str


Test = Callable[[Seen], bool]


class Parsed(NamedTuple):
    """A rule: what it asks, and the statement behind that."""

    tests: tuple[Test, ...]
    statement: tuple[str, ...]


class _Accepted(Exception):
    """The packet is done with in this base chain."""


class Nftables:
    """Our tables."""

    def __init__(self, world: World, local: frozenset[bytes] = frozenset()) -> None:
        self._chains: Mapping[NftChainKey, NftChain] = dict(world.table(NftChain))
        self.local = local
        self.mark = 0
        self.walked = self.connmark = 0
        self.refusal = ""
        self._keys: dict[NftSetKey, set[bytes]] = {}
        self._ranges: dict[NftSetKey, list[tuple[bytes, bytes]]] = {}
        for key in world.table(NftElement):
            if key.last:
                self._ranges.setdefault(key.set, []).append((key.first, key.last))
            else:
                self._keys.setdefault(key.set, set()).add(key.first)
        self._maps = {(key.map, key.packed): row.chain for key, row in world.table(NftVerdict).items()}
        self._bases: dict[tuple[NftFamily, str], list[NftChain]] = {}
        for chain in sorted(self._chains.values(), key=lambda c: c.hook.priority if c.hook is not None else 0):
            if chain.hook is not None:
                self._bases.setdefault((chain.key.family, chain.hook.hook), []).append(chain)

    def passes(self, hook: str, packet: Packet) -> bool:
        """Whether our rules let it go on to everybody else's."""
        self.mark, self.walked, self.refusal = 0, 0, ""
        layer = LAYER[packet.family]
        seen = Seen(self, layer, packet, packet.incoming)
        steps = [(seen, hook.lower())]
        if hook != "OUTPUT":
            steps.insert(0, (seen, "prerouting"))
        if packet.bridged:
            steps.insert(0, (Seen(self, NftFamily.BRIDGE, packet, packet.link), "prerouting"))
        try:
            for seen, name in steps:
                for chain in self._bases.get((seen.layer, name), ()):
                    self._base(chain, seen)
        except _Refused as refused:
            self.refusal = str(refused)
            return False
        return True

    def holds(self, layer: NftFamily, name: str, key: bytes) -> bool:
        """Whether a set has a key."""
        known = NftSetKey(layer, name)
        ranges = self._ranges.get(known, ())
        return key in self._keys.get(known, ()) or any(first <= key <= last for first, last in ranges)

    def _base(self, chain: NftChain, seen: Seen) -> None:
        try:
            self._walk(chain, seen)
        except _Accepted:
            pass

    def _walk(self, chain: NftChain, seen: Seen) -> None:
        for rule in chain.rules:
            self.walked += 1
            tests, statement = _rule(rule)
            if not all(test(seen) for test in tests):
                continue
            match statement:
                case ["accept"]:
                    raise _Accepted
                case ["drop"] | ["reject", *_]:
                    raise _Refused(rule)
                case ["return"]:
                    return
                case ["jump" | "goto" as way, name]:
                    self._walk(self._chains[NftChainKey(seen.layer, name)], seen)
                    if way == "goto":
                        return
                case ["vmap", end, name]:
                    found = self._maps.get((NftSetKey(seen.layer, name), _end(end, seen.packet)))
                    if found == "":
                        raise _Accepted
                    if found is not None:
                        self._walk(self._chains[NftChainKey(seen.layer, found)], seen)
                        return
                case ["meta", "mark", "set", "meta", "mark", "or", value]:
                    self.mark |= int(value, 16)
                case ["meta", "mark", "set", "meta", "mark", "and", value, "goto", name]:
                    self.mark &= int(value, 16)
                    self._walk(self._chains[NftChainKey(seen.layer, name)], seen)
                    return
                case ["ct", "mark", "set", "ct", "mark", "or", value]:
                    self.connmark |= int(value, 16)
                case ["ct", "mark", "set", "ct", "mark", "and", value]:
                    self.connmark &= int(value, 16)
                case ["limit", *_]:
                    pass
                case _:
                    raise ValueError(f"{rule} is not known")


def _end(end: str, packet: Packet) -> bytes:
    return packet.source if end == "saddr" else packet.target


@cache
def _rule(rule: str) -> Parsed:
    words = shlex.split(rule)
    tests: list[Test] = []
    while words[0] not in ("accept", "drop", "reject", "return", "jump", "goto", "limit"):
        match words:
            case ["counter", *words]:
                continue
            case ["meta" | "ct", "mark", "set", *_]:
                break
            case ["ip" | "ip6", "saddr" | "daddr" as end, "vmap", name]:
                return Parsed(tuple(tests), ("vmap", end, name[1:]))
        test, words = _test(words)
        tests.append(test)
    return Parsed(tuple(tests), tuple(words))


def _test(words: list[str]) -> tuple[Test, list[str]]:
    """The first match of some words, and the words behind it."""
    match words:
        case ["ct", "state", states, *rest]:
            return lambda seen: ("established" if seen.packet.known else "new") in states.split(","), rest
        case ["ct", "mark", "and", mask, "==", value, *rest]:
            return lambda seen: seen.tables.connmark & int(mask, 16) == int(value, 16), rest
        case ["ct", "direction", direction, *rest]:
            return lambda seen: direction == ("reply" if seen.packet.answer else "original"), rest
        case ["ct", "status", "expected", *rest]:
            return lambda _: False, rest
        case ["icmp" | "icmpv6" as kind, "type", number, *rest]:
            icmp = ("icmp" if kind == "icmp" else "ipv6-icmp", int(number))
            return lambda seen: (seen.packet.protocol, seen.packet.port) == icmp, rest
        case ["tcp", "flags", "&", "(fin", "|", "syn", "|", "rst", "|", "ack)", "!=", "syn", *rest]:
            return lambda seen: seen.packet.protocol == "tcp" and not seen.packet.opening, rest
        case ["meta", "l4proto", "!=", protocol, *rest]:
            return lambda seen: seen.packet.protocol != protocol, rest
        case ["meta", "l4proto", protocol, *rest] if protocol != ".":
            return lambda seen: seen.packet.protocol == protocol, rest
        case ["meta", "protocol", name, *rest]:
            family = Family.IPV4 if name == "ip" else Family.IPV6
            return lambda seen: seen.packet.family is family, rest
        case ["meta", "mark", "and", mask, "==", value, *rest]:
            return lambda seen: seen.tables.mark & int(mask, 16) == int(value, 16), rest
        case ["fib", "saddr" | "daddr" as end, "type", "local", *rest]:
            return lambda seen: _end(end, seen.packet) in seen.tables.local, rest
        case ["tcp" | "udp" | "sctp" as protocol, "dport", span, *rest]:
            first, _, last = span.partition("-")
            low, high = int(first), int(last or first)
            return lambda seen: seen.packet.protocol == protocol and low <= seen.packet.port <= high, rest
        case ["iifname", "!=", name, *rest]:
            return lambda seen: seen.link != name, rest
        case ["iifname", name, *rest] if name != "." and not name.startswith("@"):
            return lambda seen: seen.link == name, rest
    return _membership(words)


def _membership(words: list[str]) -> tuple[Test, list[str]]:
    """A concatenation of fields that is looked up in a set, or an address in a block."""
    fields: list[Callable[[Seen], bytes]] = []
    family: Family | None = None
    rest = words
    while True:
        match rest:
            case ["iifname", *rest]:
                fields.append(lambda seen: packed_link(seen.link))
            case ["ip" | "ip6" as name, "saddr" | "daddr" as end, *rest]:
                family = Family.IPV4 if name == "ip" else Family.IPV6
                fields.append(lambda seen, end=end: _end(end, seen.packet))  # type: ignore[misc]  # bound now
            case ["meta", "l4proto", *rest]:
                fields.append(lambda seen: _ports(seen.packet)[:4])
            case ["th", "sport", *rest]:
                # Whoever opens a flow does so from a port that nobody serves.
                fields.append(lambda _: packed_port(0, 0)[4:])
            case ["th", "dport", *rest]:
                fields.append(lambda seen: _ports(seen.packet)[4:])
            case _:
                raise ValueError(f"{' '.join(words)} is not known")
        if rest[0] != ".":
            break
        rest = rest[1:]
    known, rest = rest[0], rest[1:]

    def test(seen: Seen) -> bool:
        if family not in (None, seen.packet.family):
            return False
        key = b"".join([field(seen) for field in fields])
        return seen.tables.holds(seen.layer, known[1:], key) if known.startswith("@") else _inside(key, known)

    return test, rest


def _ports(packet: Packet) -> bytes:
    number = NUMBER.get(packet.protocol, 0)
    return packed_port(number, packet.port if number else 0)
