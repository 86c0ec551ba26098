"""Run a command in a guest with Debian's kernel over this host's file system, live output, hard bound, honest result.

The guest's console is the only way out while it runs, and its exit status is lost on it: so output and status of the
command go to files in the checkout's `build`, the one place of the host to which a guest can write. No status file is a
failure.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.vm import processes
from tests.vm.kernel import cache, kernel
from tests.vm.script import DEVICE, FAST, script

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "build" / "vm"
GRACE = 10.0
"""Seconds in which a guest whose command has ended shuts down."""
PROBE_BOUND = 15.0
"""Seconds in which a guest under KVM has to come up; stock kernels hang on some hosts that offer /dev/kvm."""
NO_STATUS = 70
"""Exit status when the guest left none: it hung, crashed or was stopped by the bound."""


class Hold(NamedTuple):
    """A command that stays: once the file `ready` is there it has `seconds` more."""

    ready: Path
    seconds: float


def acceleration() -> str:
    """`kvm` where a guest really boots with it, else `tcg` (emulation); the answer is kept in the cache.

    The environment's VM_ACCEL decides instead if it is set.
    """
    wanted = os.environ.get("VM_ACCEL", "")
    if wanted in ("kvm", "tcg"):
        return wanted
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    remembered = cache() / "acceleration"
    if remembered.exists():
        return remembered.read_text().strip()
    status = _boot(["true"], PROBE_BOUND, "kvm", show=False)
    answer = "kvm" if status == 0 else "tcg"
    remembered.write_text(answer)
    return answer


def run_in_guest(
    argv: Sequence[str],
    timeout: float = 540.0,
    environment: Mapping[str, str] | None = None,
    hold: Hold | None = None,
) -> int:
    """Run a command in a guest, in the checkout, as root; its output appears as it comes. Returns its exit status.

    The guest is ended after `timeout` seconds, unless `hold` gives it more; NO_STATUS then.
    """
    return _boot(list(argv), timeout, acceleration(), show=True, environment=environment, hold=hold)


def _boot(
    argv: list[str],
    timeout: float,
    accel: str,
    *,
    show: bool,
    environment: Mapping[str, str] | None = None,
    hold: Hold | None = None,
) -> int:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    image = kernel()
    with tempfile.TemporaryDirectory(prefix="run-", dir=SCRATCH) as folder:
        first, output, status = (Path(folder) / name for name in ("script.sh", "output", "status"))
        output.touch()
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        text = script(argv, ROOT, path=path, environment=environment or {}, image=image, folder=Path(folder))
        first.write_text(text)
        first.chmod(0o755)
        console = Path(folder) / "console"
        words = [
            str(Path(sys.executable).parent / "vng"),
            "--verbose",
            *(() if accel == "kvm" else ("--disable-kvm", *(f"--append={word}" for word in FAST))),
            "-r",
            str(image),
            "--user",
            "root",
            "--memory",
            "3G",
            "--cpus",
            "2",
            "--force-9p",
            f"--qemu-opts={DEVICE}",
            f"--rwdir={SCRATCH.parent}",
            "--",
            str(first),
        ]
        path = f"{Path(sys.executable).parent}:{path}"
        with console.open("wb") as sink:
            guest = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PATH": path},
            )
            began, ended = time.monotonic(), None
            try:
                with _stoppable():
                    processes.record(Path(folder), guest.pid)
                    _follow(guest, output, status, timeout, show=show, hold=hold)
                    took, ended = time.monotonic() - began, guest.poll()
            finally:
                _end(guest, GRACE if status.exists() else 0.0)
        if status.exists():
            return int(status.read_text().strip() or NO_STATUS)
        if show:
            tail = console.read_bytes()[-6000:].decode(errors="replace")
            how = "was stopped" if ended is None else f"ended by itself or was killed (exit status {ended})"
            print(f"the guest {how} after {took:.0f} s and left no status; the end of its console:\n{tail}", flush=True)
        return NO_STATUS


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exit that cleans up, so that no guest is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        # Once is enough: a second one must not interrupt the cleaning up.
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(
    guest: subprocess.Popen[bytes], output: Path, status: Path, timeout: float, *, show: bool, hold: Hold | None
) -> None:
    """Pass on what the command writes until it ends, the guest dies, or time is up."""
    end = time.monotonic() + timeout
    text = codecs.getincrementaldecoder("utf-8")("replace")
    with output.open("rb") as source:
        going = True
        while going:
            if hold is not None and hold.ready.exists():
                end, hold = time.monotonic() + hold.seconds, None
            going = time.monotonic() < end and not status.exists() and guest.poll() is None
            if going:
                time.sleep(0.2)
            shown = text.decode(source.read(), final=not going)
            if shown and show:
                sys.stdout.write(shown)
                sys.stdout.flush()


def _end(guest: subprocess.Popen[bytes], grace: float) -> None:
    """Let the guest shut down for some seconds, then end its process group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        guest.wait(grace)
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guest.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            guest.wait(5.0)
            return
