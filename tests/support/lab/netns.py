"""Network namespaces by name: make, enter, configure, remove; and which link types this kernel has."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

HOME = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_COUNTER = itertools.count()
PREFIX = "krlab"


def unique_prefix() -> str:
    """A namespace prefix that no other lab uses: it carries this process' id and a counter."""
    return f"{PREFIX}{os.getpid()}x{next(_COUNTER)}"


def path(name: str) -> Path:
    """The file that holds a named namespace open."""
    return HOME / name


def add(name: str) -> None:
    """Make a namespace with loopback up and duplicate address detection off, so that addresses work at once."""
    _run(["ip", "netns", "add", name])
    sysctls(name, {"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0"})
    configure(name, "link set lo up")


def remove(name: str) -> None:
    """Remove a namespace; one that is gone already is no error."""
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def names(prefix: str) -> list[str]:
    """Named namespaces that start with a prefix."""
    return sorted(entry.name for entry in HOME.iterdir() if entry.name.startswith(prefix)) if HOME.exists() else []


def processes(name: str) -> list[int]:
    """Ids of the processes that run in a namespace."""
    done = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def configure(name: str, *commands: str) -> None:
    """Run `ip` commands inside a namespace, in one process; raises RuntimeError with the tool's words."""
    words = ["ip", "-n", name, "-batch", "-"]
    done = subprocess.run(words, input="\n".join(commands) + "\n", text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip in {name}: {done.stderr.strip()}: {'; '.join(commands)}")


def sysctls(name: str, values: dict[str, str]) -> None:
    """Write kernel settings below /proc/sys/net of a namespace; those that the kernel lacks are skipped."""
    with inside(name):
        for key, value in values.items():
            with contextlib.suppress(FileNotFoundError):
                Path("/proc/sys/net", key).write_text(value)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Put the calling thread into a namespace. Sockets made here stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    away = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(away)
        yield
    finally:
        _enter(home)
        os.close(away)
        os.close(home)


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _run(words: Iterable[str]) -> None:
    done = subprocess.run(list(words), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


@functools.cache
def have(feature: str) -> bool:
    """Whether this kernel has a feature (`ip_vs`, `dummy`, `ipip`, `sctp`, ...), found out by trying.

    The module is loaded if it can be. Link types are tried in a scratch namespace.
    """
    if feature == "fou":
        return all(subprocess.run(["modprobe", "-q", m], check=False).returncode == 0 for m in ("fou", "fou6"))
    module = {"ip6tnl": "ip6_tunnel"}.get(feature, feature)
    subprocess.run(["modprobe", "-q", module], capture_output=True, check=False)
    if feature == "ip_vs":
        return Path("/proc/net/ip_vs").exists()
    if feature == "sctp":
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
        except OSError:
            return False
        return True
    scratch = f"{unique_prefix()}-try"
    _run(["ip", "netns", "add", scratch])
    words = ["ip", "-n", scratch, "link", "add", "try0", "type", feature]
    # Without end points they would be the same as the links that come with the module.
    words += {
        "ipip": ["remote", "192.0.2.1", "local", "192.0.2.2"],
        "ip6tnl": ["remote", "2001:db8::1", "local", "2001:db8::2"],
    }.get(feature, [])
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    finally:
        remove(scratch)
