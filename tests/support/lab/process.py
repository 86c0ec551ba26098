"""Child processes of a lab: each writes its own log, dies with the lab, and is stopped within a bound."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parents[3] / "cmd"
_ENTER = (
    'mkdir -p "$1/netns"; [ ! -d /run/netns ] || mount --rbind /run/netns "$1/netns"; '
    'mount --rbind "$1" /run; mount -t sysfs sysfs /sys; PATH=$2:$PATH; shift 2; '
    'exec setpriv --pdeathsig KILL -- "$@"'
)
"""A node's own /run keeps the xtables lock and the sockets of one node apart from those of the others."""


def enter(namespace: Path, run: Path, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in a network namespace with a private /run (the directory `run`) and /sys.

    Our own programs come first in its PATH, as in an image.

    Nothing forks on the way, so the child's process id is that of `argv`. It is killed when the thread that starts it
    ends.
    """
    words = ["nsenter", f"--net={namespace}", "unshare", "--mount", "sh", "-ec", _ENTER, "enter"]
    return [*words, str(run), str(PROGRAMS), *argv]


class Child:
    """A process of ours with its output in a file."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=dict(env)
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def returncode(self) -> int | None:
        """Exit status; None while it runs."""
        return self._popen.poll()

    def send(self, number: int) -> None:
        """Send a signal; a process that has ended is no error."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, bound: float = 5.0) -> int:
        """Send a signal and wait for the end, with SIGKILL after `bound` seconds; returns the exit status."""
        self.send(number)
        try:
            return self._popen.wait(bound)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            return self._popen.wait(bound)

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
