"""Skips a lab test, with the reason, where the kernel lacks what its marker names."""

from __future__ import annotations

import os

import pytest

from tests.support.lab import netns

FEATURES = {"ipvs": "ip_vs", "dummy": "dummy", "ipip": "ipip", "fou": "fou", "sctp": "sctp"}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask the kernel by trying."""
    if os.geteuid():
        pytest.skip("needs root")
    for marker, feature in FEATURES.items():
        if item.get_closest_marker(marker) and not netns.have(feature):
            pytest.skip(f"this kernel lacks {feature}")
