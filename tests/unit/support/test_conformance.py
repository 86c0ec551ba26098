"""The conformance runs are what they say: everything somewhere, the same every time, all of it valid."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from kuberouter.decode import DECODERS
from tests.conformance.generate import edits, seed, state
from tests.conformance.matrix import BACKENDS, MODES, SEQUENCES, STATES, everywhere, in_turns
from tests.conformance.scenarios import WRITTEN
from tests.conformance.sctp import INIT, INIT_ACK, checksum, packet, parse, reply


def test_every_scenario_meets_every_backend() -> None:
    names = ["a", "b", "c", "d"]
    assert Counter(names * len(BACKENDS)) == Counter(name for _, name in everywhere(names))
    runs = in_turns(names)
    assert Counter((place.backend, name) for place, name in runs) == Counter((b, n) for b in BACKENDS for n in names)
    assert {place.mode for place, _ in runs} == set(MODES)
    assert len(WRITTEN) + STATES + SEQUENCES >= 200


@pytest.mark.parametrize("number", range(seed(), seed() + 10))
def test_chance_repeats_itself(number: int) -> None:
    assert list(edits(number, 5)) == list(edits(number, 5))
    assert state(number) != state(number + 1)


def test_manifests_are_valid_and_names_are_unique() -> None:
    states = [state(n).manifests() for n in range(50)] + [found.manifests() for _, found in edits(1, 50)]
    for manifests in [*WRITTEN.values(), *states]:
        refs = []
        for manifest in manifests:
            found, problems = DECODERS[manifest["kind"]](json.dumps(manifest).encode())
            assert found is not None
            assert problems == ()
            refs.append(found.ref)
        assert len(set(refs)) == len(refs)


def test_sctp_packets_are_as_the_rfc_says() -> None:
    """The check value of CRC32c is that of RFC 3720, B.4: 32 bytes of zeros."""
    assert checksum(bytes(32)) == bytes.fromhex("aa36918a")
    init = packet(INIT, 40000, 80, 7)
    assert len(init) == 32
    assert parse(init) == (INIT, 40000, 80, 0, 7)
    answer = reply(init, {80})
    assert parse(answer) == (INIT_ACK, 80, 40000, 7, 7 ^ 0xFFFFFFFF)
    assert checksum(answer[:8] + bytes(4) + answer[12:]) == answer[8:12]
    assert reply(init, {81}) == b""
    assert parse(b"short") is None
