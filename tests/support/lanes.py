"""`python -m tests.support.lanes NAME [WORDS]`: run one lane, pass on what it prints, close with time and counts.

A lane is a list of commands. A command that prints a closing line of its own (`N passed, N failed`) is counted by it,
any other counts as one. The lane's closing line is the last that is printed, and the exit status agrees with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "lanes"
"""One file a lane with its last result, for the summary of `make test`."""
LONGEST = (
    "tests/lab/test_escape.py",
    "tests/lab/test_observed.py",
    "tests/bgp/test_nodes.py",
    "tests/survive/test_kill.py",
    "tests/bgp/test_restart.py",
    "tests/lab/test_metrics.py",
    "tests/bgp/test_outside.py",
    "tests/lab/test_repair.py",
    "tests/lab/test_gobgpd.py",
    "tests/lab/test_takeover.py",
    "tests/bgp/test_vips.py",
    "tests/lab/test_watched.py",
    "tests/bgp/test_reflector.py",
)
"""Files that are begun first, for they take longest. Those that wait for BGP sessions keep company to busy ones."""
_CLOSING = re.compile(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?")
_TOOLS = Path(sys.executable).parent
_PYTEST = (sys.executable, "-m", "pytest", "-q")


def full() -> bool:
    """Whether the long form of what a lane has two forms of was asked for: `FULL=1`."""
    return os.environ.get("FULL", "") not in ("", "0")


def side_by_side(processes: int, how: str = "loadfile") -> tuple[str, ...]:
    """Options of pytest for some processes that share the tests, file by file or by another rule of pytest-xdist.

    Files are begun in the order in which they are named, but for `LONGEST`. A process that crashes ends the run: its
    successor would meet the same test.
    """
    return ("-n", str(processes), "--dist", how, "--no-loadscope-reorder", "--max-worker-restart=0")


class Counts(NamedTuple):
    """What became of the tests of a lane."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"

    def plus(self, other: Counts) -> Counts:
        """The sum."""
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


class Command(NamedTuple):
    """A command of a lane; `counts` says whether it prints a closing line of its own."""

    words: tuple[str, ...]
    counts: bool = False


LANES: Mapping[str, Sequence[Command]] = {
    "lint": (
        Command((str(_TOOLS / "ruff"), "check", ".")),
        Command((str(_TOOLS / "ruff"), "format", "--check", ".")),
        Command((str(_TOOLS / "mypy"),)),
        Command((str(_TOOLS / "lint-imports"),)),
        Command((str(_TOOLS / "mkdocs"), "--quiet", "build")),
    ),
    # Property tests take long, and which ones differs from run to run: who is idle takes over.
    "unit": (Command((*_PYTEST, *side_by_side(2, "worksteal"), "tests/property", "tests/unit"), counts=True),),
    # Mostly waits, so there are more processes than there may be processors.
    "kernel": (
        Command(
            (*_PYTEST, *side_by_side(4), "tests/survive", "tests/bgp", "tests/interop", "tests/lab", "tests/kernel"),
            counts=True,
        ),
    ),
    "conformance": (Command((*_PYTEST, *side_by_side(2, "loadgroup"), "tests/conformance"), counts=True),),
    "image": (Command((*_PYTEST, "tests/image"), counts=True),),
    "vm": (Command((sys.executable, "-m", "tests.vm"), counts=True),),
}


def parse(line: str) -> Counts | None:
    """The counts of a closing line; None for any other line."""
    found = _CLOSING.fullmatch(line.strip())
    return Counts(int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def settle(counts: Counts | None, status: int, *, expected: bool) -> Counts:
    """The counts of a command that ended with `status` and printed `counts`, or no closing line.

    `expected` says whether it should have printed one. Success without tests is a failure, so is a bad end.
    """
    if counts is None:
        return Counts(passed=1) if status == 0 and not expected else Counts(failed=1)
    nothing_ran = not any(counts)
    return counts.plus(Counts(failed=1)) if (status or nothing_ran) and not counts.failed else counts


def run(command: Command, more: Sequence[str] = ()) -> Counts:
    """Run a command and show its output as it comes, all but the closing line."""
    # The network tools are not in the PATH of everybody who can become root.
    path = os.pathsep.join((str(_TOOLS), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    environment = {**os.environ, **quiet, "PYTHONUNBUFFERED": "1", "PATH": path}
    child = subprocess.Popen(
        [*command.words, *more],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    counts: Counts | None = None
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            found = parse(line) if command.counts else None
            if found is None:
                print(line, end="", flush=True)
            else:
                counts = found
    return settle(counts, child.wait(), expected=command.counts)


def main(arguments: Sequence[str]) -> int:
    """Run a lane; the exit status is 0 only if nothing failed."""
    if not arguments or arguments[0] not in LANES:
        print(f"usage: python -m tests.support.lanes {'|'.join(LANES)} [more words for its command]", file=sys.stderr)
        return 2
    name, more = arguments[0], arguments[1:]
    print(f"== {name}", flush=True)
    started = time.monotonic()
    total = Counts()
    for command in LANES[name]:
        total = total.plus(run(command, more))
    took = f"{name}: {time.monotonic() - started:.1f} s"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / name).write_text(f"{took}: {total}\n")
    print(took)
    print(total, flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
