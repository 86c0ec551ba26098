"""Counts scenarios, verdicts and mismatches over all runs and says so at the end."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conformance.generate import seed
from tests.conformance.matrix import BACKENDS, MODES, Place, full

SCENARIOS: Counter[Place] = Counter()
VERDICTS: Counter[Place] = Counter()
MISMATCHES: Counter[Place] = Counter()


def pytest_report_header() -> str:
    """How to have the same again."""
    return f"conformance: CONFORMANCE_SEED={seed()} FULL={int(full())}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, the seed, and the line that sums up."""
    if not VERDICTS:
        return
    terminalreporter.write_line(f"{'backend':<16} {'families':<11} {'scenarios':>9} {'probes':>9} {'mismatches':>10}")
    for place in (Place(backend, mode) for backend in BACKENDS for mode in MODES):
        counts = (SCENARIOS[place], VERDICTS[place], MISMATCHES[place])
        if any(counts):
            row = f"{place.backend:<16} {place.mode:<11} {counts[0]:>9} {counts[1]:>9} {counts[2]:>10}"
            terminalreporter.write_line(row)
    terminalreporter.write_line(f"seed: {seed()} (CONFORMANCE_SEED={seed()} repeats it)")
    total, wrong = sum(VERDICTS.values()), sum(MISMATCHES.values())
    terminalreporter.write_line(f"conformance: {total} verdicts, {wrong} mismatches")
