"""Rules as nf_tables keeps them: lists of expressions, from the same texts that nft(8) would read.

This saves the tool's way to a rule: it reads every chain and set of a table before it adds one. Only the part of its
language is known in which our rules are spelled; a text that goes beyond raises `Unspoken`, and its reader may turn to
the tool. What comes out is what the tool makes of the text. linux/netfilter/nf_tables.h, nft(8).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_network
from struct import pack

from kuberouter.model.nftables import NftFamily, packed_link
from kuberouter.wire.netlink import ATTRIBUTE, NLA_F_NESTED, Around, around, attribute, nested
from kuberouter.wire.nftables import DATA_VALUE, DATA_VERDICT, LIST_ELEM, VERDICT_CHAIN, VERDICT_CODE

EXPRESSION_NAME, EXPRESSION_DATA = 1, 2
VERDICT_REGISTER, REGISTER = 0, 1
PARTS = 8
"""Register 1 has 16 bytes; it and those behind it are also numbered in parts of four, from 8 on."""
EQUAL, UNEQUAL, AT_MOST, AT_LEAST = 0, 1, 3, 5
"""enum nft_cmp_ops."""
NETWORK, TRANSPORT = 1, 2
"""enum nft_payload_bases."""
META_PROTOCOL, META_MARK, META_IIFNAME, META_L4PROTO = 1, 3, 6, 16
"""enum nft_meta_keys."""
CT_STATE, CT_DIRECTION, CT_STATUS, CT_MARK = 0, 1, 2, 3
"""enum nft_ct_keys."""
STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8}
EXPECTED = 1
"""IPS_EXPECTED."""
_HEAD, _ELEM, _DATA = ATTRIBUTE.pack, LIST_ELEM | NLA_F_NESTED, EXPRESSION_DATA | NLA_F_NESTED
DIRECTIONS = {"original": 0, "reply": 1}
FIB_TYPE, LOCAL = 3, 2
"""enum nft_fib_result; RTN_LOCAL."""
FIB_ENDS = {"saddr": 1, "daddr": 2}
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
ETHERTYPES = {"ip": 0x0800, "ip6": 0x86DD}
ADDRESSES = {"ip saddr": (12, 4), "ip daddr": (16, 4), "ip6 saddr": (8, 16), "ip6 daddr": (24, 16)}
"""Offset and size in the network header."""
PORTS = {"th sport": 0, "th dport": 2}
"""Offset in the transport header."""
TCP_FLAGS, OPENING, HANDSHAKE = 13, 0x02, 0x17
"""Offset of the flags in the TCP header; SYN, and that with FIN, RST and ACK (RFC 9293)."""
VERDICTS = {"accept": 1, "drop": 0, "jump": -3, "goto": -4, "return": -5}
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
REJECTIONS = {"icmp type port-unreachable": (0, 3), "icmpv6 type port-unreachable": (0, 4), "tcp reset": (1, 0)}
"""Type (enum nft_reject_types) and code of the ICMP of either family."""


class Unspoken(Exception):
    """A rule text that only the tool understands."""


def expressions(family: NftFamily, text: str) -> bytes:
    """The expressions of a rule, one after the other. Raises Unspoken."""
    statements = _STATEMENT.findall(text)
    if " ".join(statements) != text:
        raise Unspoken(text)
    found = list(map(_spoken, statements))
    if family is NftFamily.BRIDGE:
        # There a packet may be of any protocol, so which one it is gets asked before its header is read.
        for at, statement in enumerate(statements):
            if (layer := _LAYER.search(statement)) is not None:
                if not statement.startswith("meta protocol"):
                    found.insert(at, _ethertype(layer[1]))
                break
    return b"".join(found)


@lru_cache(maxsize=16384)
def _spoken(statement: str) -> bytes:
    for pattern, build in _BUILDERS:
        if (found := pattern.fullmatch(statement)) is not None:
            try:
                return build(*found.groups())
            except (KeyError, ValueError, struct.error) as error:
                raise Unspoken(statement) from error
    raise Unspoken(statement)


# --- expressions -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _name(name: str) -> bytes:
    return attribute(EXPRESSION_NAME, name.encode() + b"\0")


def _expression(name: str, *data: bytes) -> bytes:
    head, body = _name(name), b"".join(data)
    # Two nested attributes in one; there are tens of thousands.
    heads = _HEAD(8 + len(head) + len(body), _ELEM), head, _HEAD(4 + len(body), _DATA)
    return b"".join((*heads, body))


@lru_cache(maxsize=1024)
def _number(kind: int, value: int) -> bytes:
    return attribute(kind, pack("!I", value))


def _value(kind: int, data: bytes) -> bytes:
    return nested(kind, attribute(DATA_VALUE, data))


def _host(value: int) -> bytes:
    """A number that the kernel holds in its own byte order."""
    return pack("=I", value)


def _compare(operation: int, data: bytes) -> bytes:
    before, behind = _around_compared(operation, len(data))
    return before + data + behind


@lru_cache(maxsize=64)
def _around_compared(operation: int, size: int) -> Around:
    return around(lambda data: _expression("cmp", _number(1, REGISTER), _number(2, operation), _value(3, data)), size)


@lru_cache(maxsize=64)
def _meta(key: int, register: int = REGISTER) -> bytes:
    return _expression("meta", _number(2, key), _number(1, register))


def _ct(key: int) -> bytes:
    return _expression("ct", _number(2, key), _number(1, REGISTER))


@lru_cache(maxsize=256)
def _payload(base: int, offset: int, size: int, register: int = REGISTER) -> bytes:
    return _expression("payload", _number(1, register), _number(2, base), _number(3, offset), _number(4, size))


def _bits(mask: bytes, toggled: bytes) -> bytes:
    """What is in the register, masked, then toggled."""
    registers = _number(1, REGISTER), _number(2, REGISTER)
    return _expression("bitwise", *registers, _number(3, len(mask)), _number(6, 0), _value(4, mask), _value(5, toggled))


def _any_bit(bits: int) -> bytes:
    return _bits(_host(bits), _host(0)) + _compare(UNEQUAL, _host(0))


# --- statements ------------------------------------------------------------------------------------------------------


def _ethertype(layer: str) -> bytes:
    return _meta(META_PROTOCOL) + _compare(EQUAL, pack("!H", ETHERTYPES[layer]))


@lru_cache(maxsize=64)
def _protocol(name: str) -> bytes:
    return _meta(META_L4PROTO) + _compare(EQUAL, bytes((PROTOCOLS[name],)))


def _if_protocol(unequal: str | None, name: str) -> bytes:
    if unequal:
        return _meta(META_L4PROTO) + _compare(UNEQUAL, bytes((PROTOCOLS[name],)))
    return _protocol(name)


def _not_opening() -> bytes:
    flags = _payload(TRANSPORT, TCP_FLAGS, 1) + _bits(bytes((HANDSHAKE,)), bytes(1))
    return _protocol("tcp") + flags + _compare(UNEQUAL, bytes((OPENING,)))


def _port(protocol: str, first: str, last: str | None) -> bytes:
    ports = [pack("!H", int(port)) for port in (first, last) if port is not None]
    if ports != sorted(ports):
        raise ValueError
    tests = zip((EQUAL,) if last is None else (AT_LEAST, AT_MOST), ports, strict=True)
    return _protocol(protocol) + _payload(TRANSPORT, 2, 2) + b"".join(_compare(*test) for test in tests)


def _icmp(protocol: str, kind: str) -> bytes:
    return _protocol(protocol) + _payload(TRANSPORT, 0, 1) + _compare(EQUAL, bytes((int(kind),)))


def _block(field: str, block: str) -> bytes:
    network = ip_network(block)
    offset, size = ADDRESSES[field]
    if size != len(network.network_address.packed) or not network.prefixlen:
        raise ValueError
    whole, rest = divmod(network.prefixlen, 8)
    if not rest:
        return _payload(NETWORK, offset, whole) + _compare(EQUAL, network.network_address.packed[:whole])
    masked = _bits(network.netmask.packed, bytes(size))
    return _payload(NETWORK, offset, size) + masked + _compare(EQUAL, network.network_address.packed)


def _lookup(fields: str, mapped: str | None, name: str) -> bytes:
    """Whether a set has a key of these fields, each beginning with a register's part of its own."""
    said = name.encode()
    before, behind = _around_set(fields, len(said), mapped=bool(mapped))
    return before + said + behind


@lru_cache(maxsize=256)
def _around_set(fields: str, length: int, *, mapped: bool) -> Around:
    found: list[bytes] = []
    part = PARTS
    for field in fields.split(" . "):
        register = part if part % 4 else part // 4 - 1
        if field in ADDRESSES:
            offset, size = ADDRESSES[field]
            found.append(_payload(NETWORK, offset, size, register))
        elif field in PORTS:
            found.append(_payload(TRANSPORT, PORTS[field], size := 2, register))
        else:
            key, size = (META_IIFNAME, 16) if field == "iifname" else (META_L4PROTO, 1)
            found.append(_meta(key, register))
        part += (size + 3) // 4
    target = [_number(3, VERDICT_REGISTER)] if mapped else []

    def lookup(name: bytes) -> bytes:
        return b"".join((*found, _expression("lookup", attribute(1, name + b"\0"), _number(2, REGISTER), *target)))

    return around(lookup, length)


def _link(unequal: str | None, name: str) -> bytes:
    if len(name) > 15 or name.endswith("*"):
        raise ValueError
    return _meta(META_IIFNAME) + _compare(UNEQUAL if unequal else EQUAL, packed_link(name))


def _fib(end: str) -> bytes:
    look = _expression("fib", _number(3, FIB_ENDS[end]), _number(2, FIB_TYPE), _number(1, REGISTER))
    return look + _compare(EQUAL, _host(LOCAL))


def _states(names: str) -> bytes:
    return _ct(CT_STATE) + _any_bit(sum(STATES[name] for name in set(names.split(","))))


def _status() -> bytes:
    return _ct(CT_STATUS) + _any_bit(EXPECTED)


def _direction(name: str) -> bytes:
    return _ct(CT_DIRECTION) + _compare(EQUAL, bytes((DIRECTIONS[name],)))


def _mark(whose: str) -> bytes:
    return _meta(META_MARK) if whose == "meta" else _ct(CT_MARK)


def _if_mark(whose: str, mask: str, value: str) -> bytes:
    return _mark(whose) + _bits(_host(int(mask, 16)), _host(0)) + _compare(EQUAL, _host(int(value, 16)))


def _set_mark(whose: str, operation: str, value: str) -> bytes:
    bits = int(value, 16)
    mask, toggled = (bits, 0) if operation == "and" else (bits ^ 0xFFFFFFFF, bits)
    key, source = (META_MARK, 3) if whose == "meta" else (CT_MARK, 4)
    return (
        _mark(whose)
        + _bits(_host(mask), _host(toggled))
        + _expression(whose, _number(2, key), _number(source, REGISTER))
    )


def _counter() -> bytes:
    return _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


def _limit(rate: str, unit: str, burst: str) -> bytes:
    numbers = attribute(1, pack("!Q", int(rate))), attribute(2, pack("!Q", SECONDS[unit]))
    return _expression("limit", *numbers, _number(3, int(burst)), _number(4, 0), _number(5, 0))


def _log(prefix: str, group: str) -> bytes:
    said = prefix.encode()
    before, behind = _around_prefix(int(group), len(said))
    return before + said + behind


@lru_cache(maxsize=64)
def _around_prefix(group: int, size: int) -> Around:
    number = attribute(1, pack("!H", group))
    return around(lambda prefix: _expression("log", attribute(2, prefix + b"\0"), number), size)


def _reject(how: str) -> bytes:
    kind, code = REJECTIONS[how]
    return _expression("reject", _number(1, kind), attribute(2, bytes((code,))))


def _verdict(word: str, chain: str = "") -> bytes:
    said = chain.encode()
    before, behind = _around_chain(word, len(said))
    return before + said + behind


@lru_cache(maxsize=256)
def _around_chain(word: str, size: int) -> Around:
    code = attribute(VERDICT_CODE, pack("!i", VERDICTS[word]))

    def decided(chain: bytes) -> bytes:
        verdict = nested(DATA_VERDICT, code, *([attribute(VERDICT_CHAIN, chain + b"\0")] if chain else []))
        return _expression("immediate", _number(1, VERDICT_REGISTER), nested(2, verdict))

    return around(decided, size)


_FIELD = r"(?:iifname|ip6? [sd]addr|meta l4proto|th [sd]port)"
_PATTERNS: dict[str, Callable[..., bytes]] = {
    # In the order of how many rules have them.
    rf"({_FIELD}(?: \. {_FIELD})*) (vmap )?@(\S+)": _lookup,
    r"(tcp|udp|sctp) dport (\d+)(?:-(\d+))?": _port,
    r"(accept|drop|return)": _verdict,
    r"counter": _counter,
    r"(jump|goto) (\S+)": _verdict,
    r"reject with (icmp type port-unreachable|icmpv6 type port-unreachable|tcp reset)": _reject,
    r"ct state ([a-z]+(?:,[a-z]+)*)": _states,
    r"limit rate (\d+)/(second|minute|hour|day) burst (\d+) packets": _limit,
    r'log prefix "([^"]*)" group (\d+)': _log,
    r"meta l4proto (!= )?([a-z]+)": _if_protocol,
    r"tcp flags & \(fin \| syn \| rst \| ack\) != syn": _not_opening,
    r"(icmp|icmpv6) type (\d+)": _icmp,
    r"(ip6? [sd]addr) ([0-9a-f.:]+/\d+)": _block,
    r"(meta|ct) mark and 0x([0-9a-f]+) == 0x([0-9a-f]+)": _if_mark,
    r"(meta) mark set meta mark (and|or) 0x([0-9a-f]+)": _set_mark,
    r"(ct) mark set ct mark (and|or) 0x([0-9a-f]+)": _set_mark,
    r"ct status expected": _status,
    r"ct direction ([a-z]+)": _direction,
    r"fib ([sd]addr) type local": _fib,
    r'iifname (!= )?"([^"]+)"': _link,
    r"meta protocol (ip6?)": _ethertype,
}
_CAPTURING = r"(?<!\\)\((?!\?)"
_BUILDERS = [(re.compile(pattern), build) for pattern, build in _PATTERNS.items()]
_STATEMENT = re.compile(rf"(?:{re.sub(_CAPTURING, '(?:', '|'.join(_PATTERNS))})(?= |$)")
_LAYER = re.compile(r"(?:^|protocol |\. )(ip6?)(?= [sd]addr|$)")
