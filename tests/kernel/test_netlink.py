"""Batches against this kernel's netlink: what is too much for one system call goes out in several, answers and all."""

from __future__ import annotations

import errno
import socket

import pytest

from kuberouter.wire.netlink import PER_SEND, SEND_BYTES, NetlinkSocket
from kuberouter.wire.rtnetlink import route_dump

pytestmark = pytest.mark.root

ROUTE = socket.NETLINK_ROUTE
NOOP, DELETE_LINK, GET_RULE = 1, 17, 34
NO_FAMILY = 12
"""DECnet, which Linux has given up."""
NOBODY = bytes(4) + (0x7FFF_FFFF).to_bytes(4, "little") + bytes(8)
"""struct ifinfomsg of a link that does not exist."""


def test_a_batch_of_more_bytes_than_the_kernel_takes_is_split_and_every_answer_finds_its_message() -> None:
    big = (NOOP, 0, bytes(300_000))
    messages = [big] * 20 + [(DELETE_LINK, 0, NOBODY)] + [big] * 20
    # More than twice the buffer: the kernel refuses it in one piece.
    assert sum(len(body) for _, _, body in messages) > 5 * SEND_BYTES
    with NetlinkSocket(ROUTE) as link:
        assert link.transact(messages) == [0] * 20 + [errno.ENODEV] + [0] * 20


def test_a_single_message_above_the_bound_goes_out_alone() -> None:
    with NetlinkSocket(ROUTE) as link:
        assert link.transact([(NOOP, 0, bytes(SEND_BYTES + 4)), (DELETE_LINK, 0, NOBODY)]) == [0, errno.ENODEV]


def test_a_batch_of_more_messages_than_go_out_at_once_has_an_answer_for_each() -> None:
    count = 2 * PER_SEND + 1
    failing = {0, PER_SEND - 1, PER_SEND, count - 1}
    messages = [(DELETE_LINK, 0, NOBODY) if at in failing else (NOOP, 0, b"") for at in range(count)]
    with NetlinkSocket(ROUTE) as link:
        found = link.transact(messages)
    assert {at for at, code in enumerate(found) if code} == failing


def test_of_a_family_that_the_kernel_does_not_have_there_is_nothing() -> None:
    """As of IPv6 on a host booted with ipv6.disable=1: policy rules of IPv4 were not read there either."""
    with NetlinkSocket(ROUTE, strict=True) as link:
        assert link.dump(GET_RULE, route_dump(NO_FAMILY)) == []
