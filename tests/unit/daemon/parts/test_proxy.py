"""What the service proxy's part tells of itself when it is put together."""

from __future__ import annotations

import logging
import os

import pytest

from kuberouter.daemon.parts.proxy import proxy_part
from kuberouter.model.settings import ProxySettings


@pytest.mark.parametrize("mode", [0, 1])
def test_the_choice_for_ports_that_are_used_again_is_told(caplog: pytest.LogCaptureFixture, mode: int) -> None:
    """Pain 2."""
    caplog.set_level(logging.INFO)
    proxy_part(ProxySettings(reuse_mode=mode))
    assert f"net.ipv4.vs.conn_reuse_mode={mode} fits Linux {os.uname().release}" in caplog.messages
