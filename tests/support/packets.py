"""Where a packet ends up by the rows that were compiled: a small netfilter and IPVS that read nothing but rows.

It follows what docs of netfilter and the kernel's IPVS do: raw, mangle, then filter INPUT for what comes in by a link,
then IPVS, which asks for a service of the packet's mark before one of its address. What the node itself sends meets raw
and mangle of OUTPUT and is taken by IPVS there. A word of a rule that is not known here is an error, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from kuberouter.model.core import Family, L4Protocol, Row, family_of
from kuberouter.model.ipvs import Destination, VirtualService, VirtualServiceKey, marked_service
from kuberouter.model.netfilter import Chain, ChainKey, Hook, IpSet, Member, Position, SetType, SourcedKey, Table
from kuberouter.model.network import Address

Rows = Mapping[type[Row], Mapping[Any, Any]]

DROPPED, REFUSED, ESCAPED, HOST = "dropped", "refused", "escaped", "host"
"""Other ends than an endpoint: without a word, with one, past this node, and at the node's own sockets."""


class Packet(NamedTuple):
    """The first packet of a flow. `own` says that the node itself sends it."""

    source: str
    destination: str
    port: int
    protocol: L4Protocol = L4Protocol.TCP
    own: bool = False
    mark: int = 0

    @property
    def family(self) -> Family:
        return family_of(ip_address(self.destination).packed)


class Fate(NamedTuple):
    """Addresses of the endpoints that may get it, or how else it ends."""

    endpoints: frozenset[str] = frozenset()
    end: str = ""


class Node:
    """A node with these rows and, besides, these addresses of its own."""

    def __init__(self, rows: Rows, addresses: tuple[str, ...]) -> None:
        self._rows = rows
        self._own = {ip_address(a).packed for a in addresses}
        self._local = {*self._own, *(key.address for key in rows.get(Address, {}))}

    def fate(self, packet: Packet) -> Fate:
        """What becomes of a packet."""
        hook = "OUTPUT" if packet.own else "PREROUTING"
        for table in (Table.RAW, Table.MANGLE):
            end, packet = self._judge(table, hook, packet)
            if end:
                return Fate(end=end)
        if not packet.own:
            if ip_address(packet.destination).packed not in self._local:
                return Fate(end=ESCAPED)
            end, packet = self._judge(Table.FILTER, "INPUT", packet)
            if end:
                return Fate(end=end)
        service = self._service(packet)
        if service is None:
            return Fate(end=HOST if ip_address(packet.destination).packed in self._local else ESCAPED)
        found = {k.address for k, row in self._rows[Destination].items() if k.service == service and row.weight}
        return Fate(frozenset(str(ip_address(a)) for a in found), "" if found else REFUSED)

    def _service(self, packet: Packet) -> VirtualServiceKey | None:
        address = ip_address(packet.destination).packed
        marked = marked_service(packet.family, packet.mark) if packet.mark else None
        for key in (marked, VirtualServiceKey(packet.family, packet.protocol, address, packet.port)):
            if key in self._rows[VirtualService]:
                return key
        return None

    def _judge(self, table: Table, hook: str, packet: Packet) -> tuple[str, Packet]:
        hooks = [h for k, h in self._rows[Hook].items() if (k.family, k.table, k.chain) == (packet.family, table, hook)]
        hooks.sort(key=lambda h: (h.position is Position.LAST, h.rank, h.key.text))
        end, packet = self._walk(table, (h.key.text for h in hooks), packet)
        return ("" if end in ("", "ACCEPT") else end), packet

    def _walk(self, table: Table, rules: Iterator[str] | tuple[str, ...], packet: Packet) -> tuple[str, Packet]:
        """The verdict of a chain, empty where it comes to its end or returns, and the packet as it leaves."""
        for text in rules:
            words = Words(text)
            if not self._matches(words, packet):
                continue
            target = words.target
            if target == "RETURN":
                return "", packet
            if target in ("ACCEPT", "DROP", "REJECT"):
                return {"DROP": DROPPED, "REJECT": REFUSED}.get(target, target), packet
            if target == "MARK":
                packet = packet._replace(mark=_masked(packet.mark, words.options["--set-xmark"]))
            elif target == "SET":
                name, directions = words.options["--map-set"].split(" ")
                assert "--map-mark" in words.options
                member = self._member(name, directions, packet)
                if member is not None:
                    packet = packet._replace(mark=member.mark)
            else:
                chain = self._rows[Chain][ChainKey(packet.family, table, target)]
                end, packet = self._walk(table, chain.rules, packet)
                if end:
                    return end, packet
        return "", packet

    def _matches(self, words: Words, packet: Packet) -> bool:
        return all(self._holds(option, value, packet) != negated for negated, option, value in words.conditions)

    def _holds(self, option: str, value: str, packet: Packet) -> bool:
        match option:
            case "-s":
                return ip_address(packet.source) in ip_network(value)
            case "-d":
                return ip_address(packet.destination) in ip_network(value)
            case "-i":
                assert value == "lo", "other links have no name here"
                return packet.own
            case "-p":
                return value == packet.protocol.name.lower()
            case "--dport":
                return int(value) == packet.port
            case "--src-type":
                assert value == "LOCAL"
                return ip_address(packet.source).packed in self._local
            case "--match-set":
                name, directions = value.split(" ")
                return self._member(name, directions, packet) is not None
            case "--mark":
                wanted, _, mask = value.partition("/")
                return packet.mark & int(mask or "0xffffffff", 16) == int(wanted, 16)
            case "--tcp-flags":
                # SYN and FIN of a first packet are as they should be.
                return False
        raise AssertionError(f"a match that is not known here: {option} {value}")

    def _member(self, name: str, directions: str, packet: Packet) -> Member | None:
        kind = self._rows[IpSet][_set_key(self._rows, name)].type
        ends = {"src": packet.source, "dst": packet.destination}
        first, *others = directions.split(",")
        address = ip_address(ends[first])
        ported = kind in (SetType.HASH_IP_PORT, SetType.HASH_NET_PORT, SetType.HASH_IP_PORT_NET)
        assert len(others) == (0 if not ported else 2 if kind is SetType.HASH_IP_PORT_NET else 1), (name, directions)
        for key, row in self._rows[Member].items():
            if key.set != name or not _inside(address, key.address, key.length):
                continue
            if ported and (others[0] != "dst" or (key.protocol, key.port) != (packet.protocol, packet.port)):
                continue
            if isinstance(key, SourcedKey) and not _inside(
                ip_address(ends[others[1]]), key.network, key.network_length
            ):
                continue
            assert isinstance(row, Member)
            return row
        return None


def _set_key(rows: Rows, name: str) -> Any:
    return next(key for key in rows[IpSet] if key.name == name)


def _inside(address: Any, network: bytes, length: int) -> bool:
    block = ip_network((network, length))
    return block.version == address.version and address in block


def _masked(mark: int, value: str) -> int:
    bits, _, mask = value.partition("/")
    return (mark & ~int(mask or "0xffffffff", 16)) ^ int(bits, 16)


VALUES = {"--match-set": 2, "--map-set": 2, "--map-mark": 0, "--tcp-flags": 2, "--random-fully": 0}
"""How many words follow an option; one where nothing is said."""
MATCHES = frozenset(
    (
        "-s",
        "-d",
        "-i",
        "-p",
        "--dport",
        "--src-type",
        "--match-set",
        "--mark",
        "--tcp-flags",
        "--icmp-type",
        "--icmpv6-type",
    )
)


class Words:
    """A rule's text as conditions (negated, option, value) and a target with its options."""

    def __init__(self, text: str) -> None:
        self.conditions: list[tuple[bool, str, str]] = []
        self.options: dict[str, str] = {}
        self.target = ""
        words = text.split(" ")
        negated = False
        while words:
            word = words.pop(0)
            if word == "!":
                negated = True
                continue
            values = [words.pop(0) for _ in range(VALUES.get(word, 1))]
            if word == "-j":
                self.target = values[0]
            elif self.target:
                self.options[word] = " ".join(values)
            elif word in MATCHES:
                self.conditions.append((negated, word, " ".join(values)))
                negated = False
            else:
                assert word == "-m", f"a word that is not known here: {word} in {text!r}"
        assert self.target, text
