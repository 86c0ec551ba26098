"""What of GoBGP bites whoever does not know it: each of these against a real one, of both versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouter.model import bgp
from kuberouter.model.core import Batch, Family, Prefix
from kuberouter.wire.gobgp.client import BestPath, Refused
from kuberouter.wire.gobgp.gobgpd import Gobgp
from tests.bgp.test_drivers import CLOSED, NODES, PODS, POLICY, SPEAKER, STATEMENT, WORLD, entry, neighbor, serving
from tests.kernel.drive import converge, owned
from tests.support.bgp import Station, Wire, bgp_drivers

pytestmark = pytest.mark.root

MANY = 25_000
"""Paths that do not fit into the 4 MiB of a message that gRPC takes by default: each takes 203 bytes in version 3. In
version 4 it takes 58, and the limit is reached with three times as many."""
CHUNK = 5_000


@pytest.fixture
def station(tmp_path: Path, gobgpd: str) -> Iterator[Station]:
    with Wire(tmp_path, gobgpd) as wire:
        yield wire.station("a", "192.0.2.1")


@pytest.fixture
def gobgp(station: Station) -> Gobgp:
    """One that has an identity, sets and a policy."""
    found = serving(station)
    drivers = bgp_drivers(found)
    for row, rows in WORLD[:-1]:
        assert converge(drivers[row], rows) == {}
    return found


def path(number: int) -> bgp.Path:
    return bgp.Path(bgp.PathKey(Prefix((0x64000000 + (number << 8)).to_bytes(4), 24)), SPEAKER.router_id)


def first(gobgp: Gobgp, count: int) -> list[BestPath]:
    """The first best paths that a new watcher is told of."""
    found: list[BestPath] = []
    watch = gobgp.api.watch()
    try:
        for news in watch:
            found += news
            if len(found) >= count:
                return found
    finally:
        watch.cancel()
    raise AssertionError("the stream ended")


def test_the_table_at_the_beginning_may_be_larger_than_a_message_usually_is(gobgp: Gobgp) -> None:
    for at in range(0, MANY, CHUNK):
        gobgp.api.originate([path(number) for number in range(at, at + CHUNK)], ())
    own = len(WORLD[-2][1])
    found = first(gobgp, MANY + own)
    assert len({each.prefix for each in found}) == MANY + own


def test_a_path_that_is_told_again_is_no_news_and_breaks_no_stream(gobgp: Gobgp) -> None:
    gobgp.api.originate([path(1)], ())
    watch = gobgp.api.watch()
    try:
        stream = iter(watch)
        seen = list(next(stream))
        while not any(each.prefix == path(1).key.prefix for each in seen):
            seen += next(stream)
        gobgp.api.originate([path(1)], ())
        gobgp.api.originate([path(2)], ())
        news: list[BestPath] = []
        while not any(each.prefix == path(2).key.prefix for each in news):
            news += next(stream)
    finally:
        watch.cancel()
    assert {each.prefix for each in news} <= {path(1).key.prefix, path(2).key.prefix}
    assert all(each.own for each in news)


def test_an_entry_that_is_there_twice_goes_as_one(gobgp: Gobgp) -> None:
    """GoBGP appends without looking, so somebody else, or a call that was cut off, may have said it twice."""
    drivers = bgp_drivers(gobgp)
    twice = (entry(PODS, "10.244.1.0/24"), neighbor(NODES, "192.0.2.2/32"))
    for kind, row in zip((bgp.SetKind.PREFIX, bgp.SetKind.NEIGHBOR), twice, strict=True):
        gobgp.api.add_set(bgp.DefinedSetKey(kind, row.key.set), [row.key])
        driver = drivers[type(row)]
        assert owned(driver)[row.key] == row
        assert not driver.write(Batch(remove=(row,))).failed
        assert row.key not in owned(driver)


def test_entries_are_read_back_as_networks_whatever_bits_were_given(gobgp: Gobgp) -> None:
    block = Prefix(bytes((10, 9, 8, 7)), 16)
    crooked = bgp.PrefixSetEntryKey(PODS, block, 16, 16)
    gobgp.api.add_set(bgp.DefinedSetKey(bgp.SetKind.PREFIX, PODS), [crooked])
    straight = entry(PODS, "10.9.0.0/16")
    assert owned(bgp_drivers(gobgp)[bgp.PrefixSetEntry])[straight.key] == straight


def test_a_statement_or_policy_that_is_in_use_is_neither_merged_nor_torn_out(gobgp: Gobgp) -> None:
    drivers = bgp_drivers(gobgp)
    other = bgp.Statement(STATEMENT.key, PODS, NODES, False)
    assert owned(drivers[bgp.Statement])[STATEMENT.key] == STATEMENT
    assert set(drivers[bgp.Statement].write(Batch(change=((STATEMENT, other),))).failed) == {STATEMENT.key}
    assert owned(drivers[bgp.Statement])[STATEMENT.key] == STATEMENT
    with pytest.raises(Refused):
        gobgp.api.remove_policy(POLICY)
    (kept,) = (each for each in gobgp.api.assignments() if each.key == CLOSED.key)
    assert kept == CLOSED


def test_a_daemon_that_is_at_work_is_never_started_again(gobgp: Gobgp) -> None:
    """A second start with another listener is refused; without any it would wipe everything and say nothing."""
    drivers = bgp_drivers(gobgp)
    before = owned(drivers[bgp.Path])
    starts = gobgp.starts
    assert before
    assert converge(drivers[bgp.Speaker], (SPEAKER,)) == {}
    assert gobgp.starts == starts
    assert owned(bgp_drivers(gobgp)[bgp.Path]) == before


def test_a_family_is_never_left_out_of_a_withdrawal(gobgp: Gobgp) -> None:
    drivers = bgp_drivers(gobgp)
    rows = owned(drivers[bgp.Path]).values()
    assert {row.key.prefix.family for row in rows} == set(Family)
    for row in rows:
        # What is not there can be withdrawn as well, and takes nothing else along.
        assert not drivers[bgp.Path].write(Batch(remove=(row, path(7)))).failed
    assert owned(drivers[bgp.Path]) == {}
