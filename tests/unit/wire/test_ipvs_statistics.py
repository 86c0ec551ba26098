"""What a virtual service has counted, as the kernel tells it (linux/ip_vs.h): in 64 bits, or in 32 by old ones."""

from __future__ import annotations

from struct import pack

from kuberouter.wire import ipvs
from kuberouter.wire.netlink import GENL_HEADER, attribute, nested

HEAD = bytes(GENL_HEADER.size)
PAD = 11
"""IPVS_STATS_ATTR_PAD: empty, where the kernel has to align what follows."""
BIG = tuple((1 << 33) + kind for kind in range(1, 11))
SMALL = tuple((1 << 31) + kind for kind in range(1, 11))
NEW = nested(
    ipvs.SVC_STATS64,
    b"".join(attribute(PAD, b"") + attribute(kind, pack("=Q", value)) for kind, value in enumerate(BIG, 1)),
)
OLD = nested(
    ipvs.SVC_STATS,
    b"".join(attribute(n, pack("=Q" if n in (4, 5) else "=I", value)) for n, value in enumerate(SMALL, 1)),
)


def service(*statistics: bytes) -> bytes:
    """An answer of a dump."""
    return HEAD + nested(ipvs.ATTR_SERVICE, ipvs.service_key(2, 6, bytes((10, 96, 0, 1)), 80), *statistics)


def test_numbers_of_64_bits_are_preferred() -> None:
    assert ipvs.parse_statistics(service(OLD, NEW)) == BIG


def test_padding_and_order_make_no_difference() -> None:
    plain = [attribute(kind, pack("=Q", value)) for kind, value in enumerate(BIG, 1)]
    for parts in (plain, plain[::-1], plain[:9]):
        found = ipvs.parse_statistics(service(nested(ipvs.SVC_STATS64, b"".join(parts))))
        assert found == (BIG if len(parts) == 10 else (*BIG[:9], 0))


def test_old_kernels_tell_32_bits_of_all_but_bytes() -> None:
    assert ipvs.parse_statistics(service(OLD)) == SMALL


def test_without_statistics_nothing_was_counted() -> None:
    assert ipvs.parse_statistics(service()) == (0,) * 10
