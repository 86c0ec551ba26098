"""The lanes' closing lines must be honest: a run that broke or ran nothing never looks like a success."""

from __future__ import annotations

import sys

import pytest

from tests.support.lanes import LONGEST, ROOT, Command, Counts, parse, run, settle


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("3 passed, 0 failed\n", Counts(3, 0)),
        ("3 passed, 1 failed, 2 skipped\r\n", Counts(3, 1, 2)),
        ("==== 3 passed, 1 failed in 0.1s ====", None),
        ("3 passed, 1 failed, 2 skipped in 1.0s", None),
        ("conformance: 4000 verdicts, 0 mismatches", None),
    ],
)
def test_only_a_closing_line_counts(line: str, counts: Counts | None) -> None:
    assert parse(line) == counts


def test_a_closing_line_is_written_as_it_is_read() -> None:
    for counts in (Counts(3, 0), Counts(0, 1), Counts(5, 0, 2)):
        assert parse(str(counts)) == counts
    assert str(Counts(3, 0)) == "3 passed, 0 failed"


@pytest.mark.parametrize(
    ("counts", "status", "expected", "settled"),
    [
        (None, 0, False, Counts(1, 0)),
        (None, 1, False, Counts(0, 1)),
        (None, 0, True, Counts(0, 1)),
        (Counts(4, 0), 0, True, Counts(4, 0)),
        (Counts(4, 0), 70, True, Counts(4, 1)),
        (Counts(4, 2), 1, True, Counts(4, 2)),
        (Counts(0, 0), 0, True, Counts(0, 1)),
        (Counts(0, 0, 3), 0, True, Counts(0, 0, 3)),
    ],
)
def test_a_bad_end_is_a_failure(counts: Counts | None, status: int, expected: bool, settled: Counts) -> None:
    assert settle(counts, status, expected=expected) == settled


def test_output_is_passed_on_and_the_closing_line_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    code = "print('working'); print('2 passed, 0 failed'); print('bye')"
    assert run(Command((sys.executable, "-c", code), counts=True)) == Counts(2, 0)
    assert capfd.readouterr().out == "working\nbye\n"


def test_files_that_are_begun_first_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
