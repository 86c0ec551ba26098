"""Every test runs against gobgpd 3, and against gobgpd 4 where there is one."""

from __future__ import annotations

import os

import pytest

from tests.support import gobgpd as programs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its versions, but for those that name one."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "gobgpd" in metafunc.fixturenames and not any(mark.args[0] == "gobgpd" for mark in marks):
        metafunc.parametrize("gobgpd", ["gobgp3", "gobgp4"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def gobgpd(request: pytest.FixtureRequest) -> str:
    """The program of a version."""
    if request.param == "gobgp3":
        return programs.V3
    try:
        return programs.v4(os.environ.get("PYTEST_XDIST_TESTRUNUID", ""))
    except programs.Missing as error:
        pytest.skip(str(error))
