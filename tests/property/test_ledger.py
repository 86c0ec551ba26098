"""Claims in any order, applied step by step, equal claims from scratch, and the kernel follows."""

from __future__ import annotations

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.engine.ledger import Ledger, diff
from kuberouter.engine.mirror import Mirror
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Owner, Rank
from kuberouter.model.ipvs import Destination, DestinationKey, VirtualServiceKey
from tests.support.examples import examples

OWNERS = st.builds(lambda name: Owner("services", ObjectRef("Service", "shop", name)), st.sampled_from("abcd"))
SERVICE = VirtualServiceKey(Family.IPV4, L4Protocol.TCP, b"\x0a\x60\x00\x01", 80)
ROWS = st.builds(
    lambda last, port, weight: Destination(DestinationKey(SERVICE, bytes((10, 1, 0, last)), port), weight),
    st.sampled_from((1, 2)),
    st.sampled_from((80, 81)),
    st.integers(0, 2),
)

RANKS = st.builds(Rank, st.integers(0, 1), st.sampled_from((0.0, 1.0)))
STEPS = st.lists(st.tuples(OWNERS, st.lists(ROWS, max_size=4), RANKS), max_size=25)
Rows = dict[Hashable, Destination]


def scratch(steps: list[tuple[Owner, list[Destination], Rank]]) -> Ledger[Destination]:
    """A ledger that hears only everybody's last word, in another order."""
    last = {owner: (rows, rank) for owner, rows, rank in steps}
    ledger: Ledger[Destination] = Ledger()
    for owner in sorted(last, key=lambda o: o.subject.name, reverse=True):
        rows, rank = last[owner]
        ledger.claim(owner, rows, rank=rank)
    return ledger


@examples(150)
@given(STEPS)
def test_incremental_claims_equal_claims_from_scratch(steps: list[tuple[Owner, list[Destination], Rank]]) -> None:
    ledger: Ledger[Destination] = Ledger()
    kernel: Rows = {}
    for owner, rows, rank in steps:
        ledger.claim(owner, rows, rank=rank)
        changed = ledger.changes()
        for key, before in changed.items():
            assert kernel.get(key) == before
            assert ledger.winner(key) != before
        batch = diff(ledger.desired, {key: kernel.get(key) for key in changed})
        kernel.update({row.key: row for row in batch.add})
        kernel.update({new.key: new for _, new in batch.change})
        for row in batch.remove:
            del kernel[row.key]
    fresh = scratch(steps)
    assert dict(ledger.desired) == dict(fresh.desired) == kernel
    for key in kernel:
        assert ledger.holder(key) == fresh.holder(key)
        assert ledger.owners(key) == fresh.owners(key)


@examples(150)
@given(STEPS, st.sets(st.integers(0, 24)))
def test_changes_are_the_difference_since_they_were_asked_for(
    steps: list[tuple[Owner, list[Destination], Rank]], asked: set[int]
) -> None:
    ledger: Ledger[Destination] = Ledger()
    known: Rows = {}
    for turn, (owner, rows, rank) in enumerate(steps):
        ledger.claim(owner, rows, rank=rank)
        if turn in asked:
            now = dict(ledger.desired)
            differing = {key for key in known.keys() | now.keys() if known.get(key) != now.get(key)}
            assert ledger.changes() == {key: known.get(key) for key in differing}
            known = now


@examples(150)
@given(STEPS, st.sets(st.integers(0, 24)))
def test_claims_taken_in_together_equal_claims_one_by_one(
    steps: list[tuple[Owner, list[Destination], Rank]], cuts: set[int]
) -> None:
    together: Ledger[Destination] = Ledger()
    single: Ledger[Destination] = Ledger()
    waiting: list[tuple[Owner, list[Destination], Rank]] = []
    for turn, (owner, rows, rank) in enumerate(steps):
        single.claim(owner, rows, rank=rank)
        waiting.append((owner, rows, rank))
        if turn in cuts or turn == len(steps) - 1:
            together.claim_all(waiting)
            waiting = []
            assert together.changes() == single.changes()
            assert dict(together.desired) == dict(single.desired)
            for key in single.desired:
                assert together.owners(key) == single.owners(key)
            for each, _, _ in steps:
                assert together.claimed(each) == single.claimed(each)


@examples(100)
@given(STEPS, st.sets(st.integers(0, 24)))
def test_failed_rows_stay_pending_until_written(
    steps: list[tuple[Owner, list[Destination], Rank]], failing: set[int]
) -> None:
    ledger: Ledger[Destination] = Ledger()
    mirror: Mirror[Destination] = Mirror()
    kernel: Rows = {}

    def apply(now: float, fail: bool) -> None:
        batch = mirror.batch(ledger.desired, now)
        failed: dict[Hashable, str] = {}
        for row in (*batch.add, *(new for _, new in batch.change)):
            if fail and row.key.port == 81:
                failed[row.key] = "refused"
            else:
                kernel[row.key] = row
        for row in batch.remove:
            del kernel[row.key]
        mirror.wrote(batch, failed, now)

    for turn, (owner, rows, rank) in enumerate(steps):
        ledger.claim(owner, rows, rank=rank)
        mirror.note(ledger.changes())
        apply(float(turn), turn in failing)
        assert all(isinstance(key, DestinationKey) and key.port == 81 for key in mirror.failures)
    apply(1e9, False)
    assert kernel == dict(ledger.desired)
    assert mirror.pending == 0
    assert not mirror.failures
    assert mirror.next_due() is None


@examples(100)
@given(st.lists(ROWS, max_size=6), st.lists(ROWS, max_size=6))
def test_reading_the_kernel_finds_every_difference(desired: list[Destination], actual: list[Destination]) -> None:
    want: Rows = {row.key: row for row in desired}
    have: Rows = {row.key: row for row in actual}
    mirror: Mirror[Destination] = Mirror()
    differing = mirror.refresh(have, want)
    assert differing == len({k for k in want.keys() | have.keys() if want.get(k) != have.get(k)})
    batch = mirror.batch(want, 0.0)
    assert len(batch) == differing
    assert {row.key for row in batch.remove} == have.keys() - want.keys()


def test_the_oldest_claim_wins_and_the_next_one_takes_over() -> None:
    ledger: Ledger[Destination] = Ledger()
    old, young = (Owner("services", ObjectRef("Service", "shop", name)) for name in ("z-old", "a-young"))
    key = DestinationKey(SERVICE, b"\x0a\x01\x00\x01", 80)
    ledger.claim(young, [Destination(key, 1)], rank=Rank(since=200.0))
    assert ledger.changes() == {key: None}
    ledger.claim(old, [Destination(key, 2)], rank=Rank(since=100.0))
    assert ledger.changes() == {key: Destination(key, 1)}
    assert ledger.winner(key) == Destination(key, 2)
    assert ledger.owners(key) == [old, young]
    ledger.claim(old, [])
    assert ledger.changes() == {key: Destination(key, 2)}
    assert ledger.holder(key) == young
    ledger.claim(young, [])
    assert ledger.changes() == {key: Destination(key, 1)}
    assert len(ledger) == 0
