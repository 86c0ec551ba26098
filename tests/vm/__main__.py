"""`python -m tests.vm` runs the tests that need Debian's kernel in it; `python -m tests.vm -- COMMAND` any command."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.lanes import side_by_side
from tests.vm.guest import NO_STATUS, acceleration, run_in_guest

MARKS = "ipvs or dummy or ipip or fou or sctp"
FOLDERS = ("tests/lab", "tests/bgp", "tests/kernel")
BOUND = 1200.0
"""Seconds after which the guest must have hung. The lane should take half of that; its printed time is what counts."""


def files() -> list[str]:
    """The files with marked tests; all folders if that cannot be found out, so that the guest tells why.

    An emulated guest takes half a minute to read the others only to find that none of their tests is wanted.
    """
    words = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", MARKS, *FOLDERS]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    named = dict.fromkeys(line.partition("::")[0] for line in listed.stdout.splitlines() if "::" in line)
    return list(FOLDERS if listed.returncode or not named else named)


def main(arguments: list[str]) -> int:
    """Boot, run, report; the exit status is the command's."""
    if os.geteuid() != 0:
        print("the vm lane needs root", file=sys.stderr)
        return 1
    print(f"booting Debian's kernel ({acceleration()})", flush=True)
    if arguments[:1] == ["--"]:
        return run_in_guest(arguments[1:], BOUND)
    tests = arguments or [*files(), "-m", MARKS]
    words = [sys.executable, "-m", "pytest", "-q", "--timeout=300", "--durations=60", *side_by_side(2), *tests]
    status = run_in_guest(words, BOUND)
    if status == NO_STATUS:
        print("0 passed, 1 failed", flush=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
