"""Looking around in a lab, on this machine and through the channel that leads into a guest: with the real far end."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import kept, look
from tests.support.lab import Lab
from tests.support.lab.process import PROGRAMS
from tests.vm import server
from tests.vm.channel import Gone, call
from tests.vm.processes import Process, clean, end_session, record
from tests.vm.server import Refused, serve

pytestmark = pytest.mark.root
BOUND = 30.0
CALL = """
import sys
from pathlib import Path
from tests.vm.channel import Gone, call
try:
    sys.exit(call(Path(sys.argv[1]), sys.argv[2:], lambda: True))
except Gone:
    sys.exit(99)
"""


def wait(wanted: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND
    while not wanted():
        assert time.monotonic() < end, "late"
        time.sleep(0.02)


def plain(words: list[str]) -> list[str] | str:
    """Run what is asked for; `hello` is answered and `nowhere` refused."""
    if words == ["nowhere"]:
        raise Refused("no such place")
    return "world" if words == ["hello"] else words


@contextlib.contextmanager
def serving(channel: Path, answer: server.Answer) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=serve, args=(channel, answer, ended.is_set))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Path]:
    with serving(tmp_path, plain):
        yield tmp_path


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Children inherit whether interrupts are ignored, and they are in a run that a shell put into the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


Caller = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def caller(channel: Path) -> Iterator[Caller]:
    """Starts processes that call, with pipes or with a terminal for everything."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*words: str, through: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", CALL, str(channel), *words]
        children.append(subprocess.Popen(argv, stdin=through, stdout=through, stderr=through))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_output_errors_and_status_come_back_apart(channel: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status = call(channel, ["sh", "-c", "echo out; echo err >&2; exit 7"], lambda: True)
    assert (status, *capfd.readouterr()) == (7, "out\n", "err\n")
    assert call(channel, ["hello"], lambda: True) == 0
    assert call(channel, ["nowhere"], lambda: True) == 1
    assert call(channel, ["/no/such/command"], lambda: True) == 1
    said = capfd.readouterr()
    assert said.out == "world\n"
    assert said.err.startswith("no such place\n")
    assert "/no/such/command" in said.err
    assert call(channel, ["sh", "-c", "kill -9 $$"], lambda: True) == 137
    assert list(channel.iterdir()) == []


def test_much_output_is_complete(channel: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(channel, ["seq", "300000"], lambda: True) == 0
    assert capfd.readouterr().out.split() == [str(number) for number in range(1, 300001)]


def test_input_is_passed_on_and_callers_do_not_wait_for_each_other(caller: Caller) -> None:
    first, second = caller("cat"), caller("sh", "-c", "cat | wc -c")
    assert second.communicate(b"x" * 200000)[0].strip() == b"200000"
    assert first.stdin is not None
    assert first.stdout is not None
    first.stdin.write(b"\xff\xc3\n")
    first.stdin.flush()
    assert first.stdout.readline() == b"\xff\xc3\n"
    assert first.poll() is None
    assert first.communicate(b"end")[0] == b"end"
    assert (first.returncode, second.returncode) == (0, 0)


def test_output_appears_while_the_command_runs_and_an_interrupt_reaches_it(caller: Caller) -> None:
    child = caller("sh", "-c", "trap 'echo stopped; exit 3' INT; echo ready; while :; do sleep 0.1; done")
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == b"stopped\n"
    assert child.wait(BOUND) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_ends_with_its_caller(
    channel: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    child = caller("sh", "-c", "echo $$; exec sleep 600")
    assert child.stdout is not None
    process = Process.of(int(child.stdout.readline()))
    monkeypatch.setattr(server, "SILENCE", 3.0)
    child.send_signal(number)
    child.communicate()
    wait(lambda: not process.alive)
    wait(lambda: not list(channel.iterdir()))


def test_what_nobody_reads_ends(caller: Caller) -> None:
    # Slowly, for what writes without end is ended anyhow, and maybe first.
    child = caller("sh", "-c", "echo $$; while :; do echo more; sleep 0.01; done")
    assert child.stdout is not None
    process = Process.of(int(child.stdout.readline()))
    child.stdout.close()
    assert child.wait(BOUND) == 141
    wait(lambda: not process.alive)


def test_too_much_output_ends_a_command(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LIMIT", 5 << 20)
    output, errors = (child := caller("yes")).communicate(b"")
    assert 5 << 20 < len(output) < 8 << 20
    assert errors == b"ended: it wrote more than 5 MB\n"
    assert child.returncode == 137


def test_a_terminal_here_is_a_terminal_there(caller: Caller) -> None:
    ours, theirs = pty.openpty()
    server._resize(ours, 33, 101)
    child = caller("sh", through=theirs)
    os.close(theirs)
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([ours], [], [], BOUND)[0], seen
            seen += os.read(ours, 4096)
        seen = seen.partition(text)[2]

    os.write(ours, b"stty size; tty; echo [$((6 * 7))]\n")
    read_until(b"33 101\r\n")
    read_until(b"/dev/pts/")
    read_until(b"[42]")
    server._resize(ours, 20, 60)
    os.write(ours, b"while [ \"$(stty size)\" != '20 60' ]; do sleep 0.1; done; echo [$((6 * 8))]\n")
    read_until(b"[48]")
    os.write(ours, b"cat\nhey\n")
    # Once as it is typed and once from cat, which then is what Ctrl-C ends.
    read_until(b"hey\r\n")
    read_until(b"hey\r\n")
    os.write(ours, b"\x03")
    read_until(b"# ")
    os.write(ours, b"exit 5\n")
    assert child.wait(BOUND) == 5
    os.close(ours)


def test_a_terminal_can_be_left_when_the_other_end_hangs(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    child = subprocess.Popen([sys.executable, "-c", CALL, str(tmp_path), "sh"], stdin=theirs, stdout=theirs)
    try:
        wait(lambda: termios.tcgetattr(theirs) != before)
        os.write(ours, b"\x1d")
        assert child.wait(BOUND) == 99
        assert termios.tcgetattr(theirs) == before
    finally:
        child.kill()
        child.wait()
        os.close(ours)
        os.close(theirs)


def test_a_channel_without_a_server_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Gone, match="taken down"):
        call(tmp_path, ["true"], lambda: False)


def test_a_lab_is_looked_at_through_the_channel_and_directly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lab(nodes=2, subnets=1) as lab:
        lab.wire_statically()
        pod = lab.pod("web", "node2")
        # The newest lab of this machine may be another's.
        monkeypatch.setattr(look, "homes", lambda: [lab.home])

        def seen(*words: str) -> tuple[int, str, str]:
            return look.main(list(words), tmp_path), *capfd.readouterr()

        def right(*first: str) -> None:
            assert "default/web" in seen(*first)[1]
            assert seen(*first, "node2", "ip", "route", "show", "10.244.1.0/24")[1].startswith("10.244.1.0/24 via")
            assert f"inet {pod.ip}/" in seen(*first, "default/web", "ip", "addr")[1]
            assert seen(*first, "node1", "sh", "-c", "exit 9")[0] == 9
            assert seen(*first, "node1", "sh", "-c", "command -v gobgp")[1] == f"{PROGRAMS}/gobgp\n"
            status, _, errors = seen(*first, "node9", "true")
            assert status == 1
            assert "no such place: node9; there are node1, node2, outside, default/web" in errors

        # A test's lab is not entered by mistake.
        assert seen("node1", "true") == (1, "", "look: no demo is running: start one with `make demo KEEP=1`\n")
        right("--any")
        with kept.keeping(tmp_path) as home:
            # This process keeps both, the demo and the lab.
            right()
            way = home / "channel"
            way.mkdir()
            status, _, errors = seen("node1", "true")
            assert (status, "not finished its checks" in errors) == (1, True)
            (home / "status").write_text("0")
            with serving(way, lambda words: look.answer(lab.home, words)):
                right()
        assert not home.exists()


def test_a_killed_keepers_guest_is_ended_and_a_living_ones_is_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]
    living, orphan = (subprocess.Popen(sleeper, start_new_session=True) for _ in range(2))
    try:
        for name, child in (("living", living), ("orphan", orphan)):
            (tmp_path / name).mkdir()
            record(tmp_path / name, child.pid)
        note = tmp_path / "orphan" / "processes"
        note.write_text(f"{Process(os.getpid(), 1)}\n{Process.of(orphan.pid)}\n")
        assert clean(tmp_path) == [str(tmp_path / "orphan")]
        assert orphan.wait(BOUND) == -signal.SIGKILL
        assert living.poll() is None
        assert [path.name for path in tmp_path.iterdir()] == ["living"]
    finally:
        for child in (living, orphan):
            with contextlib.suppress(OSError):
                end_session(Process.of(child.pid))
            child.wait()


def test_a_later_process_with_the_same_id_is_another() -> None:
    me = Process.of(os.getpid())
    assert Process.parse(str(me)) == me
    assert me.alive
    assert not me._replace(started=me.started - 1).alive
