"""`python -m tests.bench [NAME ...]`: measure, print each figure beside its target, and fail if one falls short.

Every module of this package with a function `figures()` takes part; smaller is better for all of them. The unit
`ratio` is for times that are measured against a yardstick in the same run.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
import traceback
from collections.abc import Sequence

import tests.bench

Figure = tuple[str, float, float, str]
"""Name, value, target, unit."""


def modules() -> list[str]:
    """Names of the benches."""
    return sorted(found.name for found in pkgutil.iter_modules(tests.bench.__path__) if found.name != "__main__")


def line(figure: Figure) -> str:
    """One figure as it is printed."""
    name, value, target, unit = figure
    verdict = "ok" if value <= target else "short"
    if unit == "ratio":
        return f"bench {name} ratio={value:.3g} target={target:g} {verdict}"
    return f"bench {name} value={value:.3g}{unit} target={target:g}{unit} {verdict}"


def main(arguments: Sequence[str]) -> int:
    """Run the named benches, or all; the exit status is 0 only if every figure reached its target."""
    known = modules()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"no bench {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    count = short = 0
    for name in arguments or known:
        figures = getattr(importlib.import_module(f"tests.bench.{name}"), "figures", None)
        if figures is None:
            continue
        started = time.monotonic()
        try:
            measured: list[Figure] = figures()
        except Exception:
            traceback.print_exc()
            print(f"bench {name} broke: short", flush=True)
            count, short = count + 1, short + 1
            continue
        for figure in measured:
            print(line(figure), flush=True)
        count += len(measured)
        short += sum(value > target for _, value, target, _ in measured)
        print(f"# {name}: {time.monotonic() - started:.1f} s", flush=True)
    print(f"bench: {count} figures, {short} short")
    return 1 if short or not count else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
