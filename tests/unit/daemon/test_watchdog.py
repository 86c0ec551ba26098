"""What the log says of a loop that hangs, and of controllers that wait."""

from __future__ import annotations

import threading

import pytest

from kuberouter.daemon.watchdog import Herald, Watchdog


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
    assert second == "the loop of the engine turns again"
    dog.look()
    assert "its thread is gone" in caplog.messages[2]


def test_what_is_waited_for_is_told_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    lacking = ["there is no Node of the name n1", "there is no Node of the name n1", "", "", "gobgpd does not answer"]
    states = iter([[("router", not reason, reason), ("firewall", True, "")] for reason in lacking])
    herald = Herald(lambda: next(states))
    for _ in lacking:
        herald.look()
    assert caplog.messages == [
        "router is not ready: there is no Node of the name n1",
        "firewall is ready",
        "router is ready",
        "router is not ready: gobgpd does not answer",
    ]
