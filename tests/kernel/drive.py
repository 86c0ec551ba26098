"""Drive one driver to a desired state the way the engine does, and read it back."""

from __future__ import annotations

import subprocess
from collections.abc import Hashable, Iterable
from typing import TypeVar

from kuberouter.engine.ledger import diff
from kuberouter.model.core import Row
from kuberouter.model.ports import Driver

R = TypeVar("R", bound=Row)


def owned(driver: Driver[R]) -> dict[Hashable, R]:
    """What the kernel holds of ours."""
    return {row.key: row for row in driver.read() if driver.owns(row)}


def converge(driver: Driver[R], rows: Iterable[R]) -> dict[Hashable, str]:
    """Read, diff, write. Returns the failed rows."""
    want = {row.key: row for row in rows}
    have = owned(driver)
    return dict(driver.write(diff(want, {key: have.get(key) for key in {*want, *have}})).failed)


def sh(*words: str, stdin: str | None = None) -> str:
    """Run a tool in this thread's namespace; its output."""
    return subprocess.run(list(words), input=stdin, capture_output=True, text=True, check=True).stdout
