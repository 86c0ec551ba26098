"""Every test runs against gobgpd 3; against gobgpd 4, where there is one, those that are marked `versions`.

These show every call and every number on the wire, policies at work, and how an identity and a process are changed:
that is what the versions differ in. The others are about us, and last as long as GoBGP waits for sessions; `FULL=1`
runs them against both as well.
"""

from __future__ import annotations

import os

import pytest

from tests.support import gobgpd as programs
from tests.support.lanes import full


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its versions, but for those that name one."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "gobgpd" in metafunc.fixturenames and not any(mark.args[0] == "gobgpd" for mark in marks):
        both = full() or metafunc.definition.get_closest_marker("versions") is not None
        versions = ["gobgp3", "gobgp4"] if both else ["gobgp3"]
        metafunc.parametrize("gobgpd", versions, indirect=True, scope="session")


@pytest.fixture(scope="session")
def gobgpd(request: pytest.FixtureRequest) -> str:
    """The program of a version."""
    if request.param == "gobgp3":
        return programs.V3
    try:
        return programs.v4(os.environ.get("PYTEST_XDIST_TESTRUNUID", ""))
    except programs.Missing as error:
        pytest.skip(str(error))
