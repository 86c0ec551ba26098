"""Counts scenarios, verdicts and mismatches over all runs and says so at the end."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conformance.generate import seed
from tests.conformance.matrix import Place, Tally, places
from tests.support.lanes import full

TALLY = "tally"
TALLIES: Counter[tuple[Place, str]] = Counter()


def pytest_configure() -> None:
    """Settle the seed, which every process that runs tests inherits."""
    seed()


def pytest_report_header() -> str:
    """How to have the same again."""
    return f"conformance: CONFORMANCE_SEED={seed()} FULL={int(full())}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what the tests counted: properties come along with the reports of every process, the last has all."""
    if report.when == "teardown":
        for backend, mode, *counts in (value for name, value in report.user_properties if name == TALLY):
            for key, count in zip(Tally._fields, counts, strict=True):
                TALLIES[Place(backend, mode), key] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, the seed, and the line that sums up."""
    if not TALLIES:
        return
    terminalreporter.write_line(f"{'backend':<16} {'families':<11} {'scenarios':>9} {'probes':>9} {'mismatches':>10}")
    for place in places():
        counts = Tally(*(TALLIES[place, key] for key in Tally._fields))
        if any(counts):
            row = f"{place.backend:<16} {place.mode:<11} {counts[0]:>9} {counts[1]:>9} {counts[2]:>10}"
            terminalreporter.write_line(row)
    terminalreporter.write_line(f"seed: {seed()} (CONFORMANCE_SEED={seed()} repeats it)")
    total, wrong = (sum(TALLIES[place, key] for place in places()) for key in ("verdicts", "mismatches"))
    terminalreporter.write_line(f"conformance: {total} verdicts, {wrong} mismatches")
