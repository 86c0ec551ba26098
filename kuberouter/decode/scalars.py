"""Text to values: addresses, CIDRs, booleans, durations, timestamps. They raise ValueError with a sentence."""

from __future__ import annotations

import datetime
import ipaddress
import re
from functools import lru_cache

from kuberouter.model.core import L4Protocol, Prefix

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_BASES = (
    (re.compile(r"0[xX](?:_?[0-9a-fA-F])+"), 16),
    (re.compile(r"0[oO](?:_?[0-7])+"), 8),
    (re.compile(r"0[bB](?:_?[01])+"), 2),
    (re.compile(r"0(?:_?[0-7])+"), 8),
    (re.compile(r"0|[1-9](?:_?[0-9])*"), 10),
)
"""How a number may be written (Go's strconv.ParseUint with base 0)."""
_LONGEST_NUMBER = 64
"""Digits. A longer number is out of range in every base, and Python refuses to convert very long ones."""
_HEXADECIMAL = re.compile("[0-9a-fA-F:]+").fullmatch
_LENGTH = re.compile("[0-9]{1,9}").fullmatch
# At least one letter, no hyphen at either end or beside another (RFC 6335, section 5.1, in lower case).
_PORT_NAME = re.compile(r"(?=[0-9-]*[a-z])[a-z0-9]+(-[a-z0-9]+)*").fullmatch
_MAPPED = bytes(10) + b"\xff\xff"
_SMALL = tuple(str(n) for n in range(256))
_OCTETS = {text: number for number, text in enumerate(_SMALL)}
_OCTET = _OCTETS.__getitem__
_LENGTHS = {str(n): n for n in range(129)}
PROTOCOLS = {protocol.name: protocol for protocol in L4Protocol}


def address(text: str) -> bytes:
    """An IPv4 or IPv6 address as 4 or 16 packed bytes; IPv4-mapped IPv6 addresses become IPv4."""
    packed = _usual_address(text)
    return packed if packed is not None else _rare_address(text)


def _rare_address(text: str) -> bytes:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.packed
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise ValueError(f"{text!r} carries a zone")
    return parsed.packed


def _usual_address(text: str) -> bytes | None:
    """An address in its usual spelling; None for what is rarer, or wrong, which `ipaddress` tells slowly."""
    if ":" in text:
        return _usual_ipv6(text)
    parts = text.split(".")
    if len(parts) != 4:
        return None
    try:
        return bytes(map(_OCTET, parts))
    except KeyError:
        return None


def _usual_ipv6(text: str) -> bytes | None:
    """An IPv6 address of hexadecimal groups only."""
    head, gap, tail = text.partition("::")
    left, right = _groups(head), _groups(tail)
    if left is None or right is None:
        return None
    missing = 16 - len(left) - len(right)
    if missing < 2 if gap else missing:
        return None
    packed = left + bytes(missing) + right
    return None if packed.startswith(_MAPPED) else packed


@lru_cache(maxsize=1024)
def _groups(text: str) -> bytes | None:
    """Hexadecimal groups of an IPv6 address, two bytes each; None if it is something else.

    The addresses of a node's pods begin alike, and those of many nodes end alike.
    """
    if not text:
        return b""
    if _HEXADECIMAL(text) is None:
        return None
    groups = text.split(":")
    # Every group has at least four digits then, so one that had more shows.
    digits = "".join([group.zfill(4) for group in groups])
    return bytes.fromhex(digits) if all(groups) and len(digits) == 4 * len(groups) else None


def prefix(text: str) -> Prefix:
    """A CIDR block as Go's net.ParseCIDR reads it; host bits are cleared, as the API's validation warns but allows."""
    head, slash, tail = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is not a CIDR block: the prefix length is missing")
    packed, length = _usual_address(head), _LENGTHS.get(tail)
    if packed is None or length is None:
        packed, length = _rare_block(text, head, tail)
    if length > len(packed) * 8:
        raise ValueError(f"{text!r} is not a CIDR block: {length} is too long")
    host = (1 << (len(packed) * 8 - length)) - 1
    return Prefix((int.from_bytes(packed, "big") & ~host).to_bytes(len(packed), "big"), length)


def _rare_block(text: str, head: str, tail: str) -> tuple[bytes, int]:
    """Address and length of a block in an unusual spelling. `ip_network` would take masks, blanks and zones as well."""
    if _LENGTH(tail) is None:
        raise ValueError(f"{text!r} is not a CIDR block: {tail!r} is no prefix length")
    try:
        parsed = ipaddress.ip_address(head)
    except ValueError:
        raise ValueError(f"{text!r} is not a CIDR block") from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise ValueError(f"{text!r} carries a zone")
    return parsed.packed, int(tail)


def show_address(packed: bytes) -> str:
    """A packed address as text."""
    if len(packed) == 4:
        # Thousands are told of at once, and this takes a third of the time.
        a, b, c, d = packed
        return f"{a}.{b}.{c}.{d}"
    return str(ipaddress.ip_address(packed))


def boolean(text: str) -> bool:
    """A boolean in the spellings of Go's strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is not a boolean")


def unsigned(text: str, bits: int) -> int:
    """A whole number without sign of so many bits, in the base that its prefix tells (0x, 0o, 0b, 0)."""
    for pattern, base in _BASES:
        if pattern.fullmatch(text):
            digits = text.replace("_", "").lower()
            return in_range(digits[2:] if digits[:2] in ("0x", "0o", "0b") else digits, base, bits)
    raise ValueError(f"{text!r} is not a whole number without sign")


def in_range(digits: str, base: int, bits: int) -> int:
    """The number that digits of a base write, if so many bits hold it."""
    significant = digits.lstrip("0") or "0"
    number = int(significant, base) if len(significant) <= _LONGEST_NUMBER else 1 << bits
    if number >= 1 << bits:
        raise ValueError(f"out of range, the largest is {(1 << bits) - 1}")
    return number


def duration(text: str) -> float:
    """Seconds from a duration in Go's spelling, for example `1h2m3.5s`; a bare 0 needs no unit."""
    sign, body = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if body == "0":
        return 0.0
    seconds, at = 0.0, 0
    for match in _DURATION_PART.finditer(body):
        if match.start() != at:
            break
        seconds += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if not body or at != len(body):
        raise ValueError(f"{text!r} is not a duration such as 300ms, 5m or 1h30m")
    return sign * seconds


def timestamp(text: str) -> float:
    """Seconds since the epoch from an RFC 3339 time."""
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        raise ValueError(f"{text!r} is not an RFC 3339 time") from None


def protocol(text: str) -> L4Protocol:
    """TCP, UDP or SCTP; empty is TCP, as everywhere in the API."""
    try:
        return PROTOCOLS[text or "TCP"]
    except KeyError:
        raise ValueError(f"{text!r} is not one of TCP, UDP, SCTP") from None


def port(number: int) -> int:
    """A port number from 1 to 65535."""
    if not 1 <= number <= 65535:
        raise ValueError(f"{number} is not a port number")
    return number


def port_name(text: str) -> str:
    """The name of a port as the API takes it: a service name of IANA in lower case."""
    if len(text) > 15 or _PORT_NAME(text) is None:
        raise ValueError(
            f"{text!r} is not a port name: at most 15 of a-z, 0-9 and single hyphens inside, a letter among them"
        )
    return text
