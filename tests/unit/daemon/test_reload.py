"""A configuration that changes while we run: what counts at once, what waits, what is refused as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kuberouter.daemon.commandline import Parsed, parse
from kuberouter.daemon.config import Config
from kuberouter.daemon.configfile import merge
from kuberouter.daemon.reload import Reloader, secrets


class Clock:
    """Something periodic."""

    def __init__(self) -> None:
        self.period = 300.0


class Running:
    """A reloader of a file that can be rewritten."""

    def __init__(self, tmp_path: Path, text: str, *words: str) -> None:
        self._file = tmp_path / "config.yaml"
        self._file.write_text(text)
        self.clocks = {"ipvs-sync-period": Clock(), "iptables-sync-period": Clock()}
        self.logging: list[tuple[int, str]] = []
        self.wrong: list[str] = []
        line = parse([f"--config={self._file}", *words])
        now, errors = merge(line)
        assert errors == []
        self.reloader = Reloader(
            line, now, self.clocks, check=self._check, setup=lambda *given: self.logging.append(given)
        )

    def _check(self, _: Parsed) -> tuple[Config | None, list[str]]:
        return None, self.wrong

    def rewrite(self, text: str) -> None:
        """As a ConfigMap is: a new file takes the place of the old one."""
        new = self._file.with_name("new")
        new.write_text(text)
        os.replace(new, self._file)


def test_periods_and_logging_count_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = Running(tmp_path, "v: 0")
    assert not running.reloader.changed()
    running.rewrite("v: 2\nlog-format: json\nipvs-sync-period: 1m\n")
    assert running.reloader.changed()
    with caplog.at_level("INFO"):
        running.reloader.reload()
    assert not running.reloader.changed()
    assert running.clocks["ipvs-sync-period"].period == 60.0
    assert running.clocks["iptables-sync-period"].period == 300.0
    assert running.logging == [(2, "json")]
    assert [r.getMessage() for r in caplog.records] == [
        "--config: read again; changed at once: --ipvs-sync-period, --log-format, --v"
    ]
    running.rewrite("v: 2\nlog-format: json\n")
    running.reloader.reload()
    assert running.clocks["ipvs-sync-period"].period == 300.0
    assert len(running.logging) == 1


def test_the_rest_is_named_until_it_is_taken_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = Running(tmp_path, "bgp-port: 179")
    running.rewrite("bgp-port: 180\nv: 1")
    with caplog.at_level("INFO"):
        running.reloader.reload()
        assert "--config: needs a restart: --bgp-port" in caplog.text
        running.rewrite("v: 1")
        running.reloader.reload()
    assert caplog.records[-1].getMessage() == "--config: no restart is needed any more"


def test_a_mistake_takes_nothing_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = Running(tmp_path, "v: 0")
    for text, wrong in (("v: 1\nnope: 2", []), ("v: 1", ["--bgp-port: is wrong"])):
        running.wrong = wrong
        running.rewrite(text)
        running.reloader.reload()
    assert running.logging == []
    assert "line 2: nope" in caplog.text
    assert "--bgp-port: is wrong" in caplog.text


def test_the_command_line_goes_on_counting_before_the_file(tmp_path: Path) -> None:
    running = Running(tmp_path, "", "-v1")
    running.rewrite("v: 2")
    running.reloader.reload()
    assert running.logging == []


def test_a_file_that_is_away_is_no_change(tmp_path: Path) -> None:
    running = Running(tmp_path, "v: 0")
    (tmp_path / "config.yaml").unlink()
    assert not running.reloader.changed()


def test_without_a_file_a_hangup_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    line = parse([])
    reloader = Reloader(line, line, {})
    assert not reloader.changed()
    with caplog.at_level("INFO"):
        reloader.reload()
    assert "there is no --config" in caplog.text


def test_what_is_hidden_is_what_secret_flags_were_given() -> None:
    assert secrets(parse(["--peer-router-passwords=YQ==, Yg==", "--router-id=x"])) == {"YQ==", "Yg=="}
