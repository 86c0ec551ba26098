"""The routers that tests play speak BGP as its standard has it."""

from __future__ import annotations

from ipaddress import ip_address

from tests.support import bgpspeaker as speaker

HOP = ip_address("192.0.2.7").packed
HEAD = speaker.HEAD.size


def told(message: bytes) -> list[str]:
    """The prefixes that an UPDATE without withdrawals announces."""
    attributes = int.from_bytes(message[HEAD + 2 : HEAD + 4], "big")
    return speaker.parsed_prefixes(message[HEAD + 4 + attributes :])


def test_an_update_is_what_the_standard_shows() -> None:
    (update,) = speaker.update_messages(["10.244.0.0/16"], HOP)
    attributes = bytes.fromhex("40010100400200400304c000020740050400000064")
    body = bytes(2) + len(attributes).to_bytes(2, "big") + attributes + bytes((16, 10, 244))
    assert update == b"\xff" * 16 + (HEAD + len(body)).to_bytes(2, "big") + b"\x02" + body
    (update,) = speaker.update_messages(["0.0.0.0/0"], HOP, path=(65000, 4_200_000_000))
    assert bytes.fromhex("40020a02020000fde8fa56ea00") in update


def test_many_prefixes_go_in_messages_of_the_size_that_is_allowed() -> None:
    prefixes = [f"10.{n >> 8}.{n & 255}.{n % 7}/32" for n in range(3000)]
    updates = speaker.update_messages(prefixes, HOP)
    assert [prefix for update in updates for prefix in told(update)] == prefixes
    assert all(len(update) <= speaker.LONGEST for update in updates)
    assert len(updates) == 4
