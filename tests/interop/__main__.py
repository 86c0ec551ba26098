"""`python -m tests.interop`, or `make interop`: every check with every router, with each version of gobgpd."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import NamedTuple

from tests.interop.arena import Arena, Wrong
from tests.interop.checks import CHECKS, Check, Skip
from tests.support import gobgpd as programs
from tests.support.routers import ROUTERS


class Verdict(NamedTuple):
    """What became of a check."""

    word: str
    """`ok`, `FAILED` or `skipped`."""
    seen: str


def judge(arena: Arena, check: Check, software: str) -> Verdict:
    """Make a check."""
    try:
        return Verdict("ok", check.run(arena, software))
    except Skip as reason:
        return Verdict("skipped", str(reason))
    except Wrong as error:
        return Verdict("FAILED", str(error))
    except Exception as error:
        # Whatever breaks in a check is that check's failure, and the next ones still run.
        return Verdict("FAILED", f"{type(error).__name__}: {error}")


def _columns(arena: Arena, check: Check) -> list[str]:
    if check.only:
        return [check.only] if check.only in arena.near else []
    return list(arena.far if check.special else arena.near)


def run(version: str, program: str) -> dict[tuple[str, str], Verdict]:
    """All checks with one gobgpd, by title and column."""
    found: dict[tuple[str, str], Verdict] = {}
    print(f"\n{version}: three nodes and routers are built", flush=True)
    with Arena(gobgpd=program, full=True) as arena:
        for check in CHECKS:
            for software in _columns(arena, check):
                started = time.monotonic()
                verdict = judge(arena, check, software)
                found[check.title, f"{software}, {version}"] = verdict
                took = time.monotonic() - started
                head = f"{software:<5} {check.title:<20} {verdict.word:<8}"
                print(f"  {head} {took:5.1f} s  {verdict.seen}", flush=True)
        if any(verdict.word == "FAILED" for verdict in found.values()):
            print(arena.lab.dump(), flush=True)
    return found


def table(found: dict[tuple[str, str], Verdict]) -> str:
    """Feature by peer software."""
    columns = list(dict.fromkeys(column for _, column in found))
    titles = list(dict.fromkeys(title for title, _ in found))
    first, width = max(map(len, titles)), max(map(len, columns))
    lines = [f"{'feature':<{first}}  " + "  ".join(f"{column:<{width}}" for column in columns)]
    for title in titles:
        words = (found[title, column].word if (title, column) in found else "-" for column in columns)
        lines.append(f"{title:<{first}}  " + "  ".join(f"{word:<{width}}" for word in words))
    return "\n".join(line.rstrip() for line in lines)


def _stop(_: int, __: FrameType | None) -> None:
    raise SystemExit(143)


def main(arguments: Sequence[str]) -> int:
    """The command; the exit status is 0 only if no check failed."""
    if os.geteuid():
        print("interop: needs root for network namespaces", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _stop)
    started = time.monotonic()
    found: dict[tuple[str, str], Verdict] = {}
    missing = [f"{make.software}: {make.program} is not installed" for make in ROUTERS if not make.installed()]
    wanted = list(arguments) or ["gobgp3", "gobgp4"]
    if "gobgp3" in wanted:
        found |= run("gobgp3", programs.V3)
    if "gobgp4" in wanted:
        try:
            found |= run("gobgp4", programs.v4())
        except programs.Missing as error:
            missing.append(f"gobgp4: skipped, {error}")
    if found:
        print(f"\n{table(found)}\n")
    for line in missing:
        print(line)
    for (title, column), verdict in found.items():
        if verdict.word != "ok":
            print(f"{column}: {title}: {verdict.word}: {verdict.seen}")
    made = [verdict for verdict in found.values() if verdict.word != "skipped"]
    # A router that is not here was not tried, and that is no success.
    failed = sum(verdict.word == "FAILED" for verdict in made) + sum(not make.installed() for make in ROUTERS)
    print(f"took {time.monotonic() - started:.0f} s")
    print(f"interop: {len(made)} checks, {failed} failed", flush=True)
    return 1 if failed or not made else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
