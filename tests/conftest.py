"""What every test run shares: how hypothesis works, figures that tests tell of, and the closing line that counts."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.lanes import LONGEST, Counts

# A directory per user: what root's lanes write must not get in the way of the others.
STORAGE = Path(__file__).resolve().parents[1] / "build" / f"hypothesis-{os.getuid()}"
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(STORAGE))
settings.register_profile("lanes", deadline=None, database=None, print_blob=True)
settings.load_profile("lanes")

# A run in the background of a script is born deaf to these, and so would be everything that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Thousands of tests are collected to stay: looking through them again and again would find nothing to free.
gc.disable()

_FINISHED = pytest.StashKey[bool]()
_TOLD = "told"
_LINES: list[str] = []


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Has a line printed at the end of the run. Tests run in processes whose own output nobody sees."""
    properties = request.node.user_properties
    return lambda line: properties.append((_TOLD, line))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect what was told: properties come along with the reports of every process, the last has all."""
    if report.when == "teardown":
        _LINES.extend(str(value) for name, value in report.user_properties if name == _TOLD)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it."""
    for line in _LINES:
        terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the files that take longest begun first; the order within a file stays."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """From here on look for garbage as usual, but among what comes now."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remember that there is something to count."""
    session.config.stash[_FINISHED] = not session.config.option.collectonly


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close with the one line that lanes are read by. An error beside a test counts as a failure."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not config.stash.get(_FINISHED, False) or reporter is None:
        return
    count = {key: len(reports) for key, reports in reporter.stats.items()}
    passed = count.get("passed", 0) + count.get("xfailed", 0)
    failed = count.get("failed", 0) + count.get("error", 0) + count.get("xpassed", 0)
    print(Counts(passed, failed, count.get("skipped", 0)), flush=True)
