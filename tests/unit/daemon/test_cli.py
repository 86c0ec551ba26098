"""Exit codes and the order in which a command line is decided. Each case runs the program as a user does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kuberouter import __version__
from kuberouter.daemon.commandline import usage

ROOT = Path(__file__).resolve().parents[3]
Done = subprocess.CompletedProcess[str]


def run(*words: str, program: tuple[str, ...] = ("-m", "kuberouter")) -> Done:
    """Run the daemon's command line with a bare environment; it must end by itself.

    A directory for the CNI file is on no machine: builders of images leave one behind.
    """
    return subprocess.run(
        [sys.executable, *program, *words],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "KUBE_ROUTER_CNI_CONF_FILE": "/nowhere/10-kuberouter.conf",
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("program", [("-m", "kuberouter"), ("cmd/kube-router",)])
def test_both_ways_to_start_it_are_the_same_program(program: tuple[str, ...]) -> None:
    done = run("--version", program=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"kube-router version {__version__}, Python 3.")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_checkout_runs_as_it_lies(elsewhere: bool, tmp_path: Path) -> None:
    """By its own name, with nothing in the environment, from any directory and through a link."""
    file = ROOT / "cmd" / "kube-router"
    if elsewhere:
        file = tmp_path / "kube-router"
        file.symlink_to(ROOT / "cmd" / "kube-router")
    done = subprocess.run(
        [str(file), "--version"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # The Python of the checkout, not that of the machine.
    assert done.stdout == f"kube-router version {__version__}, Python {sys.version.split()[0]}\n"


def test_a_checkout_that_is_not_set_up_says_how_to(tmp_path: Path) -> None:
    (tmp_path / "cmd").mkdir()
    file = shutil.copy(ROOT / "cmd" / "kube-router", tmp_path / "cmd")
    (tmp_path / "kuberouter").symlink_to(ROOT / "kuberouter")
    # -S and -I: a Python without any package.
    done = subprocess.run(
        [sys.executable, "-S", "-I", file, "--version"], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"kube-router: this Python has no \w+; `make setup` in {re.escape(str(tmp_path))} .*\n", done.stderr
    )


def test_help_is_printed_whole_and_needs_neither_root_nor_a_cluster() -> None:
    done = run("-h", "--router-id=nonsense", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == usage("kube-router")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--nope"], 2, "unknown flag: --nope\nUsage of kube-router:\n"),
        (["--help", "--bgp-port=x"], 2, "invalid argument 'x' for --bgp-port"),
        (["--help", "--v=much"], 1, "failed to set log level: --v: 'much' is not a number\n"),
        (["--help", "--run-router", "false"], 1, "unrecognized positional argument(s): [false]\n"),
        (["-v", "x", "positional"], 1, "failed to set log level"),
    ],
)
def test_a_line_that_cannot_be_read(words: list[str], code: int, said: str) -> None:
    done = run(*words)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith(said)


def test_what_is_decided_as_root(as_root: Callable[..., Done]) -> None:
    wrong = as_root("--overlay-type=x", "--router-id=y")
    assert wrong.returncode == 1
    assert [line.partition(":")[0] for line in wrong.stderr.splitlines()] == [
        "--overlay-type",
        "--router-id",
        "--kubeconfig",
        "KUBE_ROUTER_CNI_CONF_FILE",
    ]
    none = as_root("--manifests=/", "--run-router=false", "--run-firewall=false", "--run-service-proxy=false")
    assert (none.returncode, none.stderr) == (0, "no controller is enabled: nothing to do\n")


def test_running_needs_root_and_that_is_said_first() -> None:
    # The modules are loaded before root is given up: the checkout may be readable for root only.
    nobody = (
        "import os, sys; from kuberouter.daemon.cli import main; sys.argv[0] = 'kube-router';"
        "os.geteuid() or os.seteuid(65534); raise SystemExit(main())"
    )
    done = run("--overlay-type=x", program=("-c", nobody))
    assert done.returncode == 1
    assert done.stderr == "kube-router changes the network of this host and has to run as root\n"


def test_what_has_no_effect_any_more_is_an_error_where_that_is_asked_for(as_root: Callable[..., Done]) -> None:
    off = ("--manifests=/", "--run-router=false", "--run-firewall=false", "--run-service-proxy=false")
    old = ("--cluster-cidr=10.0.0.0/8", "--config-sync-period=1m")
    assert as_root(*off, *old).returncode == 0
    strict = as_root(*off, *old, "--strict-flags", "--bgp-port=0")
    assert strict.returncode == 1
    assert [line.partition(" ")[0] for line in strict.stderr.splitlines()] == [
        "--cluster-cidr",
        "--config-sync-period",
        "--bgp-port:",
    ]


def test_mistakes_of_file_and_flags_are_told_together(as_root: Callable[..., Done], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("nope: 1\noverlay-type: x\nlog-format: xml\nv: much\nenable-cni: false\nmanifests: /\n")
    done = as_root(f"--config={file}", "--router-id=y")
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "--config",
        "--overlay-type",
        "--router-id",
        "--v",
        "--log-format",
    ]
    assert f"{file}, line 1: nope: there is no such flag" in done.stderr


def test_debug_says_what_it_takes(as_root: Callable[..., Done], tmp_path: Path) -> None:
    for words in (("debug",), ("debug", "nonsense")):
        done = as_root(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("kube-router debug what? threads, memory, profile")
    path = tmp_path / "none.sock"
    done = as_root("debug", "threads", f"--admin-socket={path}")
    assert (done.returncode, done.stderr.partition(": ")[0]) == (1, str(path))
    assert "--enable-pprof" in done.stderr


@pytest.fixture
def as_root() -> Callable[..., Done]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return run
