"""Rules of the house that no linter knows."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kuberouter.daemon.commandline import usage
from tests.support.flagpage import page

ROOT = Path(__file__).resolve().parents[2]


def lines(*folders: str) -> Iterator[tuple[str, str]]:
    """Every line of the Python files below some folders, with the file's path."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "stubs" not in path.parts:
                yield from ((str(path.relative_to(ROOT)), line) for line in path.read_text().splitlines())


def test_unit_and_property_tests_neither_pretend_nor_wait() -> None:
    forbidden = re.compile("|".join(("unittest" + r"\.mock", "monkey" + "patch", r"\bsleep" + r"\(")))
    assert [found for found in lines("tests/unit", "tests/property") if forbidden.search(found[1])] == []


def test_keys_of_annotations_are_written_in_one_file() -> None:
    quoted = re.compile(r"""["']kube-router\.io/""")
    assert {path for path, line in lines("kuberouter") if quoted.search(line)} <= {"kuberouter/decode/annotations.py"}


def test_nothing_is_left_to_do_without_an_issue() -> None:
    marker = re.compile(r"#.*\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
    assert [found for found in lines("kuberouter", "tests") if marker.search(found[1])] == []


def test_no_package_shadows_the_standard_library() -> None:
    assert not (ROOT / "cmd" / "__init__.py").exists()


def test_make_without_a_word_lists_every_target_and_does_nothing() -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, timeout=20, check=True)
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    (lanes,) = re.findall(r"^LANES := (.*)$", makefile, re.M)
    targets = {*phony.replace("$(LANES)", lanes).split()}
    listed = [re.split(r" {2,}", line)[0] for line in done.stdout.splitlines() if line.startswith("make ")]
    words = {word for line in listed for word in re.sub(r"\[.*?\]|\w+=\w+|^make ", "", line).split()}
    assert words == targets


def test_the_page_of_flags_is_the_table_of_flags() -> None:
    assert (ROOT / "docs" / "flags.md").read_text() == page(), "`make docs` writes it anew"


def test_the_user_guide_shows_the_help_as_it_is() -> None:
    guide = (ROOT / "docs" / "user-guide.md").read_text()
    assert f"```sh\n{usage('kube-router')}```\n" in guide, "put what `kube-router --help` prints into the guide"


def test_nothing_is_decided_by_a_clock_that_can_be_set() -> None:
    """A clock of the wall jumps. It is only shown: in log lines, in one metric that is a time of day, in a Lease."""
    wall = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\b.*\.(now|utcnow|today)\(|\bCLOCK_REALTIME\b")
    found = {
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "kuberouter").rglob("*.py"))
        if "stubs" not in path.parts and wall.search(path.read_text())
    }
    assert found - {"kuberouter/sources/lease.py"} == {"kuberouter/daemon/telemetry.py"}
