"""Addresses and prefixes are read as `ipaddress` reads them, also the many that are read without it."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from kuberouter.decode.scalars import address, prefix
from kuberouter.model.core import Prefix

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


@settings(max_examples=2000, deadline=None)
@given(TEXTS)
def test_an_address_is_what_the_library_says(text: str) -> None:
    try:
        found = address(text)
    except ValueError:
        found = None
    assert found == by_the_book(text)


BLOCKS = st.one_of(
    st.builds("{}/{}".format, TEXTS, st.one_of(st.integers(-1, 130), st.sampled_from(("", "08", " 8", "255.0.0.0")))),
    TEXTS,
)


@settings(max_examples=2000, deadline=None)
@given(BLOCKS)
def test_a_prefix_is_what_the_library_says(text: str) -> None:
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
        expected = Prefix(network.network_address.packed, network.prefixlen) if "/" in text else None
    except ValueError:
        expected = None
    try:
        found = prefix(text)
    except ValueError:
        found = None
    assert found == expected
