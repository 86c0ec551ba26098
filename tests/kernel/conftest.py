"""Every kernel test runs in a network namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lab import netns


@pytest.fixture
def namespace() -> Iterator[str]:
    """A fresh network namespace that the test's thread is in, all its ports free; the name is for `ip -n`."""
    name = f"{netns.unique_prefix()}-test"
    netns.add(name)
    try:
        with netns.inside(name):
            yield name
    finally:
        netns.remove(name)


def need(feature: str) -> None:
    """Skip where the kernel lacks a feature; the guest kernel has it."""
    if not netns.have(feature):
        pytest.skip(f"this kernel has no module {feature}; the vm lane runs this")
