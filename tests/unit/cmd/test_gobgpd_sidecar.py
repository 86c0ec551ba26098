"""Where the sidecar has gobgpd listen, and which sockets it clears away. The gobgpd is one that prints its words."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "cmd" / "gobgpd-sidecar"


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    fake = home / "gobgpd"
    fake.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    fake.chmod(0o755)
    argv = [sys.executable, PROGRAM, f"--gobgpd={fake}", f"--gobgp-socket={home / 'run' / 'api'}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


LOCAL = ("127.0.0.1:50051",)


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        (None, LOCAL),
        ("", LOCAL),
        ("127.0.0.2", ("127.0.0.2:50051",)),
        ("0.0.0.0", ("0.0.0.0:50051",)),
        ("::", ("[::]:50051",)),
        ("::1", ("[::1]:50051",)),
        ("192.0.2.1", ("192.0.2.1:50051", *LOCAL)),
        ("[2001:db8::1]", ("[2001:db8::1]:50051", *LOCAL)),
        ("nonsense", LOCAL),
    ],
)
def test_tcp_listeners(tmp_path: Path, address: str | None, wanted: tuple[str, ...]) -> None:
    words = ["--gobgp-admin-port=50051"] + ([] if address is None else [f"--gobgp-admin-address={address}"])
    done = run(tmp_path, *words, "--log-level=debug")
    hosts = ",".join((f"unix://{tmp_path / 'run' / 'api'}", *wanted))
    assert done.stdout.splitlines() == [f"--api-hosts={hosts}", "--pprof-disable", "--log-level=debug"]
    told = "gobgpd-sidecar: 'nonsense' is not an IP address; 127.0.0.1 is used\n"
    assert done.stderr == (told if address == "nonsense" else "")


@pytest.mark.parametrize("text", ["70000", "-1", "x"])
def test_a_port_that_is_none(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, f"--gobgp-admin-port={text}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--gobgp-admin-port: invalid port value: '{text}'" in done.stderr


def test_a_live_socket_is_left_alone_and_a_dead_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        # The third finds the queue full, as with a daemon that hangs.
        for _ in range(3):
            done = run(tmp_path)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"gobgpd-sidecar: another gobgpd serves {path}\n"
            assert path.is_socket()
    assert run(tmp_path).returncode == 0
    assert not path.exists()


def test_metrics_that_later_ones_serve_unasked_are_turned_off(tmp_path: Path) -> None:
    fake = tmp_path / "gobgpd"
    fake.write_text("#!/bin/sh\n[ $1 != --help ] || echo ' --metrics-path= path'\nprintf '%s\\n' \"$@\"\n")
    fake.chmod(0o755)
    argv = [sys.executable, PROGRAM, f"--gobgpd={fake}", f"--gobgp-socket={tmp_path / 'api'}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.splitlines()[1:] == ["--pprof-disable", "--metrics-path="]


def test_what_is_no_socket_is_left_alone_and_told(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api"
    path.parent.mkdir()
    path.write_text("somebody's file")
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"gobgpd-sidecar: {path} exists and is no socket\n"
    assert path.read_text() == "somebody's file"


def test_no_gobgpd_is_told(tmp_path: Path) -> None:
    argv = [sys.executable, PROGRAM, "--gobgpd=/nowhere/gobgpd", f"--gobgp-socket={tmp_path / 'api'}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, "gobgpd-sidecar: /nowhere/gobgpd is not installed\n")


def test_one_is_ended_without_a_word_to_it(tmp_path: Path) -> None:
    """By its socket, so that it is no other's; where nobody listens there is nothing to do."""
    path = tmp_path / "run" / "api"
    path.parent.mkdir()
    assert run(tmp_path, "--end").returncode == 0
    code = (
        "import signal, socket, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); s = socket.socket(socket.AF_UNIX)"
    )
    code += "; s.bind(sys.argv[1]); s.listen(9); print('listening', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as gobgpd:
        assert gobgpd.stdout is not None
        assert gobgpd.stdout.readline() == "listening\n"
        done = run(tmp_path, "--end")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert gobgpd.wait(10) == -signal.SIGKILL
