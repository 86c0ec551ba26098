"""What the log says of a loop that hangs."""

from __future__ import annotations

import threading

import pytest

from kuberouter.daemon.watchdog import Watchdog


def hang_here(stop: threading.Event) -> None:
    stop.wait(30)


def test_a_loop_that_hangs_is_told_once_with_its_place_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=hang_here, args=(stop,), daemon=True)
    thread.start()
    answers = iter((True, False, False, True, True, False))
    dog = Watchdog(lambda: next(answers), thread)
    for _ in range(5):
        dog.look()
    stop.set()
    thread.join()
    first, second = caplog.messages
    assert "hangs" in first
    assert "hang_here" in first
    assert second == "the engine's loop turns again"
    dog.look()
    assert "its thread is gone" in caplog.messages[2]
