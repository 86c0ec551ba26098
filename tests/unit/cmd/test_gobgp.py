"""The gobgp of a node finds the gobgpd beside kube-router by itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "cmd" / "gobgp"
TARGET = ["--target", "unix:///run/kube-router/gobgp.sock"]


def put(folder: Path, text: str) -> Path:
    """A folder with a gobgp in it."""
    folder.mkdir()
    (folder / "gobgp").write_text(text)
    (folder / "gobgp").chmod(0o755)
    return folder


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A folder with a gobgp that prints its words, one a line."""
    return put(tmp_path / "real", "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n")


def run(words: list[str], *folders: Path, program: str = "gobgp") -> subprocess.CompletedProcess[str]:
    path = ":".join((*map(str, folders), "/usr/bin", "/bin"))
    argv = ["/usr/bin/env", f"PATH={path}", program, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        ([], TARGET),
        (["neighbor", "192.0.2.1"], [*TARGET, "neighbor", "192.0.2.1"]),
        (["global", "rib", "add", "two words", "*"], [*TARGET, "global", "rib", "add", "two words", "*"]),
        *(
            (words, words)
            for words in (
                ["--target", "unix:///x", "neighbor"],
                ["neighbor", "--target=unix:///x"],
                ["-u", "192.0.2.1", "neighbor"],
                ["-p50052", "neighbor"],
                ["--host=192.0.2.1", "neighbor"],
                ["--port", "50052", "neighbor"],
            )
        ),
    ],
)
def test_it_adds_the_socket_unless_another_place_is_named(real: Path, words: list[str], passed: list[str]) -> None:
    done = run(words, PROGRAM.parent, real)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.splitlines() == passed


def test_it_is_found_beside_a_second_copy_and_by_its_path(tmp_path: Path, real: Path) -> None:
    copy = put(tmp_path / "copy", PROGRAM.read_text())
    wanted = "\n".join([*TARGET, "neighbor", ""])
    assert run(["neighbor"], copy, PROGRAM.parent, real).stdout == wanted
    assert run(["neighbor"], real, program=str(PROGRAM)).stdout == wanted


def test_none_is_told(tmp_path: Path) -> None:
    # What is found in the system's folders would be a real one.
    done = subprocess.run(["/bin/sh", PROGRAM, "neighbor"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == f"gobgp: no gobgp comes after {PROGRAM} in PATH\n"
