"""Messages of which transactions of nf_tables are made: tables, sets, chains and rules, made and deleted.

linux/netfilter/nf_tables.h; what only libnftnl knows of is said where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from struct import pack

from kuberouter.wire import nftables as wire
from kuberouter.wire.netlink import (
    ATTRIBUTE,
    NLA_F_NESTED,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Around,
    Message,
    around,
    attribute,
    nested,
)
from kuberouter.wire.nftables import BE32, NF_ACCEPT, NFNL_SUBSYS_NFTABLES, SIGNED, place, string

DATA_VERDICT = 0xFFFFFF00
"""The type of a map's data."""
KEY_ORDER, CONCATENATED, HOST_ORDER, NETWORK_ORDER = 0, 0, 1, 2
"""By what libnftnl stores with a set the tool knows in which byte order the keys are that it prints."""
IFNAME = 41


def _message(what: int, where: bytes, *parts: bytes, flags: int = 0) -> Message:
    return NFNL_SUBSYS_NFTABLES << 8 | what, flags, b"".join((where, *parts))


# --- made, also where they exist -------------------------------------------------------------------------------------


def new_table(family: int, table: str) -> Message:
    """Make a table, or wake one that is dormant."""
    awake = attribute(wire.TABLE_FLAGS, BE32.pack(0))
    return _message(wire.NEWTABLE, place(family, wire.TABLE_NAME, table), awake, flags=NLM_F_CREATE)


def new_set(family: int, table: str, facts: wire.SetFacts, *, number: int) -> Message:
    """Make a set, or a map to verdicts; one that exists in the same form stays as it is.

    `number` tells it from the others of the transaction.
    """
    shape = _shape(facts.flags, facts.types, facts.size)
    parts = string(wire.SET_NAME, facts.name), shape, attribute(wire.SET_ID, BE32.pack(number))
    return _message(wire.NEWSET, place(family, wire.SET_TABLE, table), *parts, flags=NLM_F_CREATE)


@lru_cache(maxsize=64)
def _shape(flags: int, types: tuple[int, ...], size: int) -> bytes:
    kind = 0
    for each in types:
        kind = kind << 6 | each
    order = HOST_ORDER if types == (IFNAME,) else NETWORK_ORDER if len(types) == 1 else CONCATENATED
    mapped = (wire.SET_DATA_TYPE, DATA_VERDICT), (wire.SET_DATA_LEN, 0)
    numbers = (
        (wire.SET_FLAGS, flags),
        (wire.SET_KEY_TYPE, kind),
        (wire.SET_KEY_LEN, size),
        *(mapped if flags & wire.SET_MAP else ()),
    )
    found = [attribute(key, BE32.pack(value)) for key, value in numbers]
    return b"".join((*found, attribute(wire.SET_USERDATA, pack("=BBI", KEY_ORDER, 4, order))))


def new_chain(family: int, table: str, chain: str, hook: tuple[int, int] | None = None) -> Message:
    """Make a chain; with the number of a hook and a priority a base chain, which accepts what no rule decides."""
    parts = [string(wire.CHAIN_NAME, chain)]
    if hook is not None:
        number, priority = hook
        seat = attribute(wire.HOOK_NUMBER, BE32.pack(number)), attribute(wire.HOOK_PRIORITY, SIGNED.pack(priority))
        parts += (nested(wire.CHAIN_HOOK, *seat), attribute(wire.CHAIN_POLICY, BE32.pack(NF_ACCEPT)))
        parts.append(string(wire.CHAIN_TYPE, "filter"))
    return _message(wire.NEWCHAIN, place(family, wire.CHAIN_TABLE, table), *parts, flags=NLM_F_CREATE)


def new_rules(family: int, table: str, chain: str, rules: Iterable[tuple[bytes, str]]) -> list[Message]:
    """Append rules to a chain, each from its expressions (`wire/nftrules`) and its comment if it has one."""
    where = place(family, wire.RULE_TABLE, table) + string(wire.RULE_CHAIN, chain)
    kind, flags = NFNL_SUBSYS_NFTABLES << 8 | wire.NEWRULE, NLM_F_CREATE | NLM_F_APPEND
    nest = wire.RULE_EXPRESSIONS | NLA_F_NESTED
    found: list[Message] = []
    for expressions, comment in rules:
        body = [where, ATTRIBUTE.pack(4 + len(expressions), nest), expressions]
        if comment:
            said = comment.encode()
            before, behind = _around_comment(len(said))
            body += (before, said, behind)
        found.append((kind, flags, b"".join(body)))
    return found


@lru_cache(maxsize=64)
def _around_comment(size: int) -> Around:
    head = bytes((wire.UDATA_RULE_COMMENT, size + 1))
    return around(lambda comment: attribute(wire.RULE_USERDATA, head + comment + b"\0"), size)


# --- deleted ---------------------------------------------------------------------------------------------------------


def delete_table(family: int, table: str) -> Message:
    """Delete a table with everything in it."""
    return _message(wire.DELTABLE, place(family, wire.TABLE_NAME, table))


def flush_chain(family: int, table: str, chain: str) -> Message:
    """Delete all rules of a chain."""
    return _message(wire.DELRULE, place(family, wire.RULE_TABLE, table), string(wire.RULE_CHAIN, chain))


def delete_chain(family: int, table: str, chain: str) -> Message:
    """Delete an empty chain that nothing refers to."""
    return _message(wire.DELCHAIN, place(family, wire.CHAIN_TABLE, table), string(wire.CHAIN_NAME, chain))


def delete_set(family: int, table: str, name: str) -> Message:
    """Delete a set or map, and its elements, that no rule refers to."""
    return _message(wire.DELSET, place(family, wire.SET_TABLE, table), string(wire.SET_NAME, name))
