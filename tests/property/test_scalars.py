"""Addresses and prefixes are read as `ipaddress` reads them, also the many that are read without it."""

from __future__ import annotations

import ipaddress
import re

from hypothesis import example, given
from hypothesis import strategies as st

from kuberouter.decode.scalars import address, prefix
from kuberouter.model.core import Prefix
from tests.support.examples import examples

GROUP = st.text("0123456789abcdefF", max_size=5)
PIECES = st.lists(st.one_of(GROUP, st.sampled_from(("", ":", "ffff", "0", "192.0.2.1", "fe80", "%eth0"))), max_size=10)
TEXTS = st.one_of(
    PIECES.map(":".join),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda found: found.exploded),
    st.text("0123456789.:af /%", max_size=20),
)


def by_the_book(text: str) -> bytes | None:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return parsed.ipv4_mapped.packed
        if parsed.scope_id is not None:
            return None
    return parsed.packed


@examples(400)
@given(TEXTS)
def test_an_address_is_what_the_library_says(text: str) -> None:
    try:
        found = address(text)
    except ValueError:
        found = None
    assert found == by_the_book(text)


LENGTHS = st.one_of(
    st.integers(-1, 130),
    st.sampled_from(
        ("", "08", "0", " 8", "8 ", "8\n", "+8", "1_6", "\u0663", "255.0.0.0", "0.0.0.255", "8%eth0", "8/8")
    ),
)
BLOCKS = st.one_of(
    st.builds("{}/{}".format, TEXTS, LENGTHS),
    st.builds("{}{}/{}".format, st.sampled_from((" ", "\t", "")), TEXTS, LENGTHS),
    TEXTS,
)


def block_by_the_book(text: str) -> Prefix | None:
    """What the library says of a network, of which it takes more than net.ParseCIDR does."""
    head, slash, tail = text.partition("/")
    if not slash or not re.fullmatch("[0-9]+", tail):
        return None
    try:
        if getattr(ipaddress.ip_address(head), "scope_id", None) is not None:
            return None
        network = ipaddress.ip_network(f"{head}/{int(tail)}", strict=False)
    except ValueError:
        return None
    return Prefix(network.network_address.packed, network.prefixlen)


@examples(400)
@given(BLOCKS)
@example("10.0.0.0/0.0.0.255")
@example("10.0.0.0/255.0.0.0")
@example("fe80::1%eth0/64")
@example(" 10.0.0.0/8")
@example("1.2.3.4/32\n")
@example("10.1.0.0/08")
@example("::ffff:10.1.2.3/104")
def test_a_prefix_is_what_the_library_says(text: str) -> None:
    try:
        found = prefix(text)
    except ValueError:
        found = None
    assert found == block_by_the_book(text)
