"""The documentation's picture of the chains is that of a live node."""

from __future__ import annotations

import pytest

from tests.lab.picture import PAGE, POLICIES, draw, shown

pytestmark = pytest.mark.root


def test_the_page_shows_the_chains_as_they_are() -> None:
    assert POLICIES.strip() in PAGE.read_text()
    assert draw() == shown()
