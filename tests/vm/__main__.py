"""`python -m tests.vm` runs the tests that need Debian's kernel in it; `python -m tests.vm -- COMMAND` any command."""

from __future__ import annotations

import os
import sys

from tests.vm.guest import NO_STATUS, acceleration, run_in_guest

MARKS = "ipvs or dummy or ipip or fou or sctp"
BOUND = 1200.0
"""Seconds after which the guest must have hung. The lane should take half of that; its printed time is what counts."""


def main(arguments: list[str]) -> int:
    """Boot, run, report; the exit status is the command's."""
    if os.geteuid() != 0:
        print("the vm lane needs root", file=sys.stderr)
        return 1
    print(f"booting Debian's kernel ({acceleration()})", flush=True)
    if arguments[:1] == ["--"]:
        return run_in_guest(arguments[1:], BOUND)
    tests = arguments or ["tests/kernel", "tests/bgp", "tests/lab", "-m", MARKS]
    status = run_in_guest([sys.executable, "-m", "pytest", "-q", "--timeout=300", "--durations=5", *tests], BOUND)
    if status == NO_STATUS:
        print("0 passed, 1 failed", flush=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
