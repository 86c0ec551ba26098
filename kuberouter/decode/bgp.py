"""Texts about BGP to values: AS numbers, communities, cluster ids, passwords, peers. They raise ValueError.

Errors name the item at fault and show its text, but for passwords: these never, nor a document that holds some.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from kuberouter.decode.scalars import address, boolean, port, prefix, show_address, unsigned
from kuberouter.model.bgp import DEFAULT_PORT, Bfd, PeerSpec, Reflector
from kuberouter.model.core import Prefix, Secret, family_of

T = TypeVar("T")

AS_RANGES = ((1, 23455), (23457, 63999), (64512, 65534), (131072, 4294967294))
"""Numbers that a peer outside the cluster may have: those in between are reserved (RFC 7607, 6793, 5398, 7300)."""
LONGEST_PASSWORD = 80
"""Bytes; TCP_MD5SIG_MAXKEYLEN of linux/tcp.h."""
LONGEST_INTERVAL = 4294967
"""Milliseconds; BFD counts in 32 bits of microseconds."""
COMMUNITIES = {
    "internet": 0x00000000,
    "planned-shut": 0xFFFF0000,
    "graceful-shutdown": 0xFFFF0000,
    "accept-own": 0xFFFF0001,
    "route-filter-translated-v4": 0xFFFF0002,
    "route-filter-v4": 0xFFFF0003,
    "route-filter-translated-v6": 0xFFFF0004,
    "route-filter-v6": 0xFFFF0005,
    "llgr-stale": 0xFFFF0006,
    "no-llgr": 0xFFFF0007,
    "blackhole": 0xFFFF029A,
    "no-export": 0xFFFFFF01,
    "no-advertise": 0xFFFFFF02,
    "no-export-subconfed": 0xFFFFFF03,
    "no-peer": 0xFFFFFF04,
}
"""Well-known communities by name (IANA's registry of them)."""
_PAIR = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")
_NUMBER = re.compile(r"[0-9]{1,10}")


def items(text: str) -> list[str]:
    """The items of a comma separated list, without the spaces around them; of an empty text none."""
    return [item.strip() for item in text.split(",")] if text.strip() else []


def listed(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """A parser of comma separated lists."""
    return lambda text: tuple(parse(item) for item in items(text))


def node_asn(text: str) -> int:
    """The AS number of a node, in decimal, or in another base by its prefix (0x, 0b, 0o or 0)."""
    number = unsigned(text, 32)
    if not number:
        raise ValueError("0 is not an AS number")
    return number


def peer_asn(text: str) -> int:
    """The AS number of a peer outside the cluster, in decimal."""
    number = int(text) if _NUMBER.fullmatch(text) else 0
    if not any(first <= number <= last for first, last in AS_RANGES):
        ranges = ", ".join(f"{first} to {last}" for first, last in AS_RANGES)
        raise ValueError(f"{text!r} is not an AS number that a peer can have: {ranges}")
    return number


def repeat(text: str) -> int:
    """How often an AS number is prepended: 8 bits."""
    return unsigned(text, 8)


def cluster_id(text: str) -> bytes:
    """The id of a route reflector's cluster, a number of 32 bits or an IPv4 address, packed."""
    try:
        packed = address(text) if "." in text else unsigned(text, 32).to_bytes(4, "big")
    except ValueError:
        packed = b""
    if len(packed) != 4 or not any(packed):
        raise ValueError(f"{text!r} is neither a number of 32 bits nor an IPv4 address, or it is zero")
    return packed


def reflector(*, server: bool) -> Callable[[str], Reflector]:
    """A parser of a node's part in route reflection."""
    return lambda text: Reflector(cluster_id(text), server)


def community(text: str) -> int:
    """A community: two numbers of 16 bits with a colon, a number of 32 bits, or a well-known name."""
    if (number := COMMUNITIES.get(text)) is not None:
        return number
    if pair := _PAIR.fullmatch(text):
        high, low = int(pair[1]), int(pair[2])
        if high <= 0xFFFF and low <= 0xFFFF:
            return high << 16 | low
    elif _NUMBER.fullmatch(text) and int(text) <= 0xFFFFFFFF:
        return int(text)
    raise ValueError(f"{text!r} is not a community such as 65000:100, a number of 32 bits or a name such as no-export")


def communities(text: str) -> tuple[int, ...]:
    """A list of communities, sorted, each once."""
    return tuple(sorted({community(item) for item in items(text)}))


def prefixes(text: str) -> tuple[Prefix, ...]:
    """A list of CIDR blocks, each once, of either family."""
    return tuple(dict.fromkeys(prefix(item) for item in items(text)))


def peer_port(text: str) -> int:
    """A port number in decimal."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a port number")
    return port(int(text))


def password(text: str) -> Secret | None:
    """A password in base64; an empty text is none. The error does not show it."""
    if not text:
        return None
    try:
        content = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        raise ValueError("a password is not the base64 of a text") from None
    if not 1 <= len(content.encode()) <= LONGEST_PASSWORD or "\0" in content:
        raise ValueError(f"a password is longer than {LONGEST_PASSWORD} bytes or holds a zero byte")
    return Secret(content)


def host(text: str) -> bytes:
    """The address of one host: neither that of nobody nor that of many."""
    packed = address(text)
    if not any(packed) or packed[0] == 0xFF or (len(packed) == 4 and packed[0] >= 0xE0):
        raise ValueError(f"{text!r} is not the address of a host")
    return packed


def local_address(text: str) -> bytes:
    """An address of this node; an empty text leaves the choice."""
    return host(text) if text else b""


def parallel(
    ips: Sequence[bytes],
    asns: Sequence[int],
    ports: Sequence[int] | None = None,
    *,
    passwords: Sequence[Secret | None] | None = None,
    local: Sequence[bytes] | None = None,
    bfd: Bfd | None = None,
) -> tuple[PeerSpec, ...]:
    """Peers from parallel lists; those that are None are absent, the others must be as long as that of addresses."""
    count = len(ips)
    for name, values in (("AS numbers", asns), ("ports", ports), ("passwords", passwords), ("local addresses", local)):
        if values is not None and len(values) != count:
            raise ValueError(f"there are {count} addresses and {len(values)} {name}")
    return distinct(
        PeerSpec(
            each,
            asns[at],
            ports[at] if ports is not None else DEFAULT_PORT,
            local[at] if local is not None else b"",
            passwords[at] if passwords is not None else None,
            bfd,
        )
        for at, each in enumerate(ips)
    )


def distinct(specs: Iterable[PeerSpec]) -> tuple[PeerSpec, ...]:
    """The same peers; raises where two have one address, or one speaks from an address of the other family."""
    found: dict[bytes, PeerSpec] = {}
    for spec in specs:
        if spec.address in found:
            raise ValueError(f"{show_address(spec.address)} is named twice")
        if spec.local_address and family_of(spec.local_address) is not family_of(spec.address):
            local = show_address(spec.local_address)
            raise ValueError(f"{show_address(spec.address)} cannot be reached from {local}, of the other family")
        found[spec.address] = spec
    return tuple(found.values())


def peers_document(text: str) -> tuple[PeerSpec, ...]:
    """Peers from a YAML list of mappings, as the annotation `peers` has it; other keys are skipped.

    Every scalar is read as the text that it is: to YAML some IPv6 addresses are numbers.
    """
    # Only who uses the annotation needs a reader of YAML.
    import yaml

    try:
        found = yaml.load(text, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        # What the reader says of it may quote a password.
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark is not None else ""
        raise ValueError(f"it is not YAML{where}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ValueError("it is not YAML") from None
    if found in ("", None):
        return ()
    if not isinstance(found, list):
        raise ValueError("it is not a list of peers")
    return distinct([_peer(item, f"[{at}]") for at, item in enumerate(found)])


def _peer(item: object, where: str) -> PeerSpec:
    fields = _mapping(item, where)
    for name in ("remoteip", "remoteasn"):
        if not fields.get(name):
            raise ValueError(f"{where}.{name} is missing")
    return PeerSpec(
        _scalar(fields, "remoteip", where, host, b""),
        _scalar(fields, "remoteasn", where, peer_asn, 0),
        _scalar(fields, "port", where, peer_port, DEFAULT_PORT),
        _scalar(fields, "localip", where, host, b""),
        _scalar(fields, "password", where, password, None),
        _bfd(fields.get("bfd"), f"{where}.bfd"),
    )


def _bfd(item: object, where: str) -> Bfd | None:
    if item in ("", None):
        return None
    fields, usual = _mapping(item, where), Bfd()
    found = Bfd(
        _scalar(fields, "port", where, peer_port, usual.port),
        _scalar(fields, "detection_multiplier", where, _from_one(255), usual.multiplier),
        _scalar(fields, "desired_min_tx_interval", where, _from_one(LONGEST_INTERVAL), usual.send_interval),
        _scalar(fields, "required_min_rx_interval", where, _from_one(LONGEST_INTERVAL), usual.receive_interval),
    )
    return found if _scalar(fields, "enabled", where, boolean, False) else None


def _from_one(longest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= longest:
            raise ValueError(f"{text!r} is not a number from 1 to {longest}")
        return int(text)

    return parse


def _mapping(item: object, where: str) -> Mapping[object, object]:
    if not isinstance(item, dict):
        raise ValueError(f"{where} is not a mapping")
    return item


def _scalar(fields: Mapping[object, object], name: str, where: str, parse: Callable[[str], T], absent: T) -> T:
    value = fields.get(name)
    if value in ("", None):
        return absent
    if not isinstance(value, str):
        raise ValueError(f"{where}.{name} is neither text nor number")
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{where}.{name}: {error}") from None
