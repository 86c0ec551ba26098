"""Scripts in the language of nft(8) to the kernel: through a kept libnftables context, else a process.

This is the way for rules that `wire/nftrules` has no words for. A kept context saves the start of a process and the
wait for its end (the kernel closes its socket only after a grace period of RCU).
"""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import suppress

from kuberouter.model.core import Unavailable
from kuberouter.wire.command import run
from kuberouter.wire.netlink import adopt
from kuberouter.wire.nftables import NETLINK_NETFILTER
from kuberouter.wire.text.nft import complaint

LIBRARY = "libnftables.so.1"


def _adopt() -> None:
    """Have notices of what the library does taken for our own: whatever socket this process has open is ours."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            copy = os.dup(int(name))
            try:
                link = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                continue
            with link:
                if link.family == socket.AF_NETLINK and link.proto == NETLINK_NETFILTER and link.getsockname()[0]:
                    adopt(NETLINK_NETFILTER, link.getsockname()[0])


class _Context:
    """A libnftables context (libnftables(3)) in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        new, run_file, errors, free = (
            self._library.nft_ctx_new,
            self._library.nft_run_cmd_from_filename,
            self._library.nft_ctx_get_error_buffer,
            self._library.nft_ctx_free,
        )
        new.restype, new.argtypes = ctypes.c_void_p, [ctypes.c_uint32]
        run_file.restype, run_file.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]
        errors.restype, errors.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        free.restype, free.argtypes = None, [ctypes.c_void_p]
        self._run, self._errors, self._free = run_file, errors, free
        self._context: int | None = new(0)
        if not self._context:
            raise OSError("nft_ctx_new failed")
        for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output"):
            function = getattr(self._library, name)
            function.restype, function.argtypes = ctypes.c_int, [ctypes.c_void_p]
            function(self._context)
        # Only with its first request does a socket get the number by which notices name it.
        self.run("list tables")
        _adopt()

    def run(self, script: str) -> str:
        """Apply a script in one transaction; what went wrong, empty if nothing did."""
        # Errors name lines only in files.
        descriptor = os.memfd_create("nft")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(script.encode())
            status = self._run(self._context, f"/proc/self/fd/{descriptor}".encode())
        finally:
            os.close(descriptor)
        errors: bytes = self._errors(self._context) or b""
        return errors.decode(errors="replace") or "refused without a reason" if status else ""

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._free(self._context)
            self._context = None


class Nft:
    """Runs scripts, each one transaction. Nothing is opened before the first."""

    def __init__(self, *, library: bool = True) -> None:
        self._library = library
        self._context: _Context | None = None

    def run(self, script: str) -> str:
        """Apply a script; what went wrong, empty if nothing did. Raises Unavailable when neither way is installed."""
        if self._library and self._context is None:
            try:
                self._context = _Context()
            except OSError:
                self._library = False
        if self._context is not None:
            return self._context.run(script)
        done = run(("nft", "-f", "-"), script)
        if done.ok:
            return ""
        if done.status < 0:
            raise Unavailable(f"nft was killed by signal {-done.status}: {complaint(done.errors)}")
        return done.errors or "refused without a reason"
