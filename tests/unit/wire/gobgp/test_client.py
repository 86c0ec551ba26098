"""The connection to a gobgpd, with any server of gRPC in its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from kuberouter.wire.gobgp.client import Connection
from tests.support.late import Late


def test_a_busy_gobgpd_is_waited_for(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{tmp_path}/api")
    server.start()
    with Late(tmp_path / "late", tmp_path / "api") as late:
        connection = Connection(f"unix://{tmp_path}/late")
        assert not connection.knows("/api.Service/Method")
        connection.close()
        assert late.impatient == 0
    server.stop(None).wait()
