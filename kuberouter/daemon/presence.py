"""Whether a kube-router runs on this node: whoever does holds a name in its network namespace as long as it lives."""

from __future__ import annotations

import socket

NAME = "\0kube-router/daemon"
"""An abstract address of unix(7): it belongs to a network namespace, and goes with the process that holds it."""


def announce() -> socket.socket | None:
    """Hold the name until the socket is closed; None while somebody else has it."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        holder.bind(NAME)
    except OSError:
        holder.close()
        return None
    return holder
