"""When a loop counts as alive."""

from __future__ import annotations

from kuberouter.model.pulse import WEDGED_AFTER, Pulse


def test_what_a_loop_gets_done_counts_until_it_fails_and_again_when_it_has_come_round() -> None:
    now = 0.0
    pulse = Pulse(lambda: now)
    for _ in range(3):
        now += WEDGED_AFTER - 1
        pulse.progress()
    pulse.failed()
    now += WEDGED_AFTER - 1
    pulse.progress()
    assert pulse.alive()
    now += 1
    assert not pulse.alive()
    pulse.round()
    now += 1
    pulse.progress()
    assert pulse.beat == now
