"""gobgpd as a process: how it is started so that nobody but root can speak to it, here as in `cmd/gobgpd-sidecar`.

Needs nothing but Python's own modules.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Sequence

SOCKET_MASK = 0o077
"""File mode bits that its socket must not have: whoever may connect may do everything, so it is for root alone."""
HELP_BOUND = 10.0
"""Seconds that a program may take to say what its options are."""


class Occupied(Exception):
    """The path of the socket cannot be listened on; the text says why."""


UNSEEN = 0
"""The process id of one that lives in a container of its own."""
_PEER = struct.Struct("3i")
"""Process, user and group at the other end (`struct ucred` of unix(7))."""


def listener(path: str) -> int | None:
    """The id of the process that listens on a unix socket, which may be UNSEEN; None where nobody does."""
    with socket.socket(socket.AF_UNIX) as caller:
        # No waiting: where the queue of a daemon that hangs is full, that is an answer too.
        caller.setblocking(False)
        try:
            caller.connect(path)
        except BlockingIOError:
            return UNSEEN
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        pid, _, _ = _PEER.unpack(caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return int(pid)


def clear(path: str) -> None:
    """Make way for a socket: its directory, and no socket there that a killed daemon left. Raises Occupied.

    Nothing else is removed, and not the socket of a daemon that lives: it would go on without being reachable.
    """
    os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            # gobgpd 4 would only log that it cannot listen, and go on.
            raise Occupied(f"{path} exists and is no socket")
        if listener(path) is not None:
            raise Occupied(f"another gobgpd serves {path}")
        os.unlink(path)


def listeners(address: str, port: int) -> list[str]:
    """The TCP listeners of the API; with an address of the node's also the loopback one, where `gobgp` asks.

    Raises ValueError for what is no address; empty is the loopback one.
    """
    parsed = ipaddress.ip_address(address.strip("[]") or "127.0.0.1")
    shown = f"[{parsed}]" if parsed.version == 6 else str(parsed)
    everywhere = [] if parsed.is_loopback or parsed.is_unspecified else [f"127.0.0.1:{port}"]
    return [f"{shown}:{port}", *everywhere]


def hosts(path: str, tcp: Sequence[str] = ()) -> str:
    """The word of the command line that says where the API is served."""
    return f"--api-hosts={','.join((f'unix://{path}', *tcp))}"


def command(program: str, path: str, tcp: Sequence[str] = (), more: Sequence[str] = ()) -> list[str]:
    """The command line of a gobgpd that listens on a unix socket and on `tcp`, and nowhere else.

    Raises FileNotFoundError where there is no such program.
    """
    words = [program, hosts(path, tcp), "--pprof-disable"]
    if _knows(program, "--metrics-path"):
        # Later ones also serve metrics, without being asked and on a port that they all share.
        words.append("--metrics-path=")
    return [*words, *more]


def _knows(program: str, option: str) -> bool:
    try:
        done = subprocess.run(
            [program, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=HELP_BOUND,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return option.encode() in done.stdout
