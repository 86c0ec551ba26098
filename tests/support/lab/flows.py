"""Open flows between namespaces, both ends in this process."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterable

from tests.support.lab import netns
from tests.support.lab.pods import Pod
from tests.support.probes import PATIENCE


class Flow:
    """One open flow to a port of a pod."""

    def __init__(
        self,
        client: str,
        server: Pod,
        kind: socket.SocketKind,
        *,
        port: int,
        via: tuple[str, int] | None = None,
        source: tuple[str, int] | None = None,
        six: bool = False,
    ) -> None:
        """`client` is a network namespace. `via` is the address that it connects to if not the pod's own, `source` the
        one that it uses; it gets through unchanged. Raises OSError, AssertionError if nothing gets through."""
        family = socket.AF_INET6 if six else socket.AF_INET
        address = next(ip for ip in server.ips if (":" in ip) == six)
        with contextlib.ExitStack() as stack, netns.inside(server.network):
            listener = stack.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            if kind is socket.SOCK_STREAM:
                listener.listen()
            with contextlib.ExitStack() as failing, netns.inside(client):
                self.client = failing.enter_context(socket.socket(family, kind))
                self.client.settimeout(PATIENCE)
                if source is not None:
                    self.client.bind(source)
                self.client.connect(via or (address, port))
                failing.pop_all()
            if kind is socket.SOCK_STREAM:
                self.server, _ = listener.accept()
            else:
                self.server = listener.dup()
                self.server.connect(self.client.getsockname())
        self.client.setblocking(False)
        self.server.setblocking(False)
        try:
            assert self.speaks(self.client)
            assert self.speaks(self.server)
        except BaseException:
            self.close()
            raise

    def speaks(self, who: socket.socket) -> bool:
        """Whether a word of one end arrives at the other within a second. Raises OSError."""
        other = self.server if who is self.client else self.client
        with contextlib.suppress(BlockingIOError):
            who.send(b"word")
        return bool(select.select([other], [], [], PATIENCE)[0] and other.recv(65536))

    def passes(self, who: socket.socket) -> bool:
        """Whether a word arrives; a refusal of an earlier one may still have to be told."""
        try:
            return self.speaks(who)
        except ConnectionRefusedError:
            return False

    def close(self) -> None:
        self.client.close()
        self.server.close()


def heard(who: socket.socket, *, speaking: bool = True) -> int:
    """The error by which an end has learned that its flow is over, by now; 0 for none. It may only listen."""
    try:
        if speaking:
            who.send(b"word")
        while who.recv(65536):
            pass
    except BlockingIOError:
        return 0
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EPIPE


def close_all(flows: Iterable[Flow]) -> None:
    """Close them."""
    for flow in flows:
        flow.close()
