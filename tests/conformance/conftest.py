"""Counts verdicts and mismatches over all runs and says so at the end."""

from __future__ import annotations

import pytest

COUNTS = {"verdicts": 0, "mismatches": 0}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The line that sums up."""
    if COUNTS["verdicts"]:
        terminalreporter.write_line(f"conformance: {COUNTS['verdicts']} verdicts, {COUNTS['mismatches']} mismatches")
