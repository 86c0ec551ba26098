"""A source that fails is started again, ever later, and one that went well for long at once. No time passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kuberouter.daemon.supervise import FIRST_RESTART, LAST_RESTART, supervise
from kuberouter.engine.inbox import Inbox
from kuberouter.model.ports import Inbox as InboxPort
from kuberouter.model.ports import Stop


class Patient:
    """A flag that notes how long it was waited for, and is set after some waits."""

    def __init__(self, waits: int) -> None:
        self.waited: list[float] = []
        self._most = waits

    def is_set(self) -> bool:
        return len(self.waited) >= self._most

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return self.is_set()


class Failing:
    """A source that does something each time it is started."""

    name = "failing"

    def __init__(self, body: Callable[[], None]) -> None:
        self._body = body
        self.starts = 0

    def run(self, inbox: InboxPort, stop: Stop) -> None:
        del inbox, stop
        self.starts += 1
        self._body()


def broken() -> None:
    """A bug."""
    raise ZeroDivisionError("a bug")


def test_waits_double_up_to_a_bound_and_vary(caplog: pytest.LogCaptureFixture) -> None:
    stop, source = Patient(12), Failing(broken)
    supervise(source, Inbox(), stop)
    assert source.starts == 12
    expected = [min(LAST_RESTART, FIRST_RESTART * 2**number) for number in range(12)]
    assert all(most / 2 <= waited <= most for waited, most in zip(stop.waited, expected, strict=True))
    assert "a bug" in caplog.text
    assert "source failing failed; starting it again" in caplog.text


def test_one_that_ends_by_itself_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    stop, source = Patient(2), Failing(lambda: None)
    supervise(source, Inbox(), stop)
    assert source.starts == 2
    assert "source failing ended by itself" in caplog.text


def test_after_a_long_good_run_the_first_wait_is_short_again() -> None:
    now = 0.0

    def worked() -> None:
        nonlocal now
        now += LAST_RESTART + 1 if source.starts == 8 else 0.0
        broken()

    stop, source = Patient(9), Failing(worked)
    supervise(source, Inbox(), stop, clock=lambda: now)
    assert stop.waited[6] > FIRST_RESTART * 2
    assert stop.waited[7] <= FIRST_RESTART
    assert stop.waited[8] <= FIRST_RESTART * 2
