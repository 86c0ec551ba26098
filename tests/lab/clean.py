"""`python -m tests.lab.clean`: remove what labs and guests of dead processes left; `--all` ends kept demos first."""

from __future__ import annotations

import sys

from tests.lab import kept
from tests.support.lab import janitor
from tests.vm import guest, processes


def main(words: list[str]) -> int:
    """Clean; 1 if a demo did not end."""
    stuck = 0
    for demo in kept.alive() if "--all" in words else []:
        ended = kept.end(demo)
        stuck += not ended
        print(f"{'ended' if ended else 'could not end'} the demo of process {demo.keeper.pid}")
    for name in [*janitor.clean(), *processes.clean(guest.SCRATCH), *kept.clean()]:
        print(f"removed {name}")
    return 1 if stuck else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
