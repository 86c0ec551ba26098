"""What the system allows this process: files that may be open, which is raised, and memory, which is told."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

MOST_FILES = 1 << 16
"""What is never needed; where there is no limit at all a number is still wanted, for some libraries count up to it."""
FEW_FILES = 1024
LITTLE_MEMORY = 128 << 20
"""Bytes. With 10,000 pods and 1,000 Services the process has about this."""
CGROUP = Path("/sys/fs/cgroup")


def raise_files() -> int:
    """Raise the number of files that may be open as far as is allowed without asking; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def memory(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The least number of bytes that this process's control groups (v2, or v1's memory) allow it; None is no limit."""
    found = [bytes_ for bytes_ in _limits(root, own) if bytes_ < 1 << 60]
    return min(found, default=None)


def _limits(root: Path, own: Path) -> Iterator[int]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
            group = top / path.lstrip("/")
            # In a container the root of the tree is the own group, whatever path is told.
            for directory in (group, *group.parents):
                if directory == top.parent:
                    break
                yield from _number(directory / name)


def _number(file: Path) -> Iterator[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return
    if text.isdecimal():
        yield int(text)


def apply() -> None:
    """Raise what can be raised, and tell what there is."""
    files, limit = raise_files(), memory()
    log.info(
        "limits: %d open files, %s of memory", files, "any amount" if limit is None else f"{limit / (1 << 20):.0f} MiB"
    )
    if files < FEW_FILES:
        log.warning("only %d files may be open (ulimit -Hn); with many sessions and pods that is too few", files)
    if limit is not None and limit < LITTLE_MEMORY:
        log.warning("a limit of %d MiB of memory is little: large clusters take more", limit >> 20)
