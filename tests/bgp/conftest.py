"""Every test runs against gobgpd 3, and against gobgpd 4 where there is one."""

from __future__ import annotations

import os

import pytest

from tests.support import gobgpd as programs


@pytest.fixture(scope="session", params=["gobgp3", "gobgp4"])
def gobgpd(request: pytest.FixtureRequest) -> str:
    """The program of a version."""
    if request.param == "gobgp3":
        return programs.V3
    try:
        return programs.v4(os.environ.get("PYTEST_XDIST_TESTRUNUID", ""))
    except programs.Missing as error:
        pytest.skip(str(error))
