"""Limits of memory, from files as control groups have them."""

from __future__ import annotations

import resource
from pathlib import Path

from kuberouter.daemon.limits import memory, raise_files


def test_the_least_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    root = tmp_path / "cgroup"
    (root / "a" / "b").mkdir(parents=True)
    assert memory(root, own) is None
    (root / "a" / "b" / "memory.max").write_text("max\n")
    (root / "a" / "memory.max").write_text("1000\n")
    (root / "memory.max").write_text("2000\n")
    assert memory(root, own) == 1000


def test_in_a_container_the_own_group_is_the_root(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/kubepods/pod1\n")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "memory.max").write_text("5000\n")
    assert memory(tmp_path / "cgroup", own) == 5000


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/a\n3:cpu:/a\n")
    directory = tmp_path / "cgroup" / "memory" / "a"
    directory.mkdir(parents=True)
    (directory / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory(tmp_path / "cgroup", own) is None
    (directory / "memory.limit_in_bytes").write_text("4096\n")
    assert memory(tmp_path / "cgroup", own) == 4096
    assert memory(tmp_path / "cgroup", tmp_path / "none") is None


def test_open_files_are_raised_and_never_lowered() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        raised = raise_files()
        assert raised > 256
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised == raise_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
