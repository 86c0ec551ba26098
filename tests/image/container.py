"""Containers of the image, run by crun as a node's runtime does it: privileged, on the node's network."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COUNT = itertools.count()
_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ"
)
"""In the kernel's order (capabilities(7))."""
_UNIFIED = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun --cgroup-manager=disabled "$@"'
"""crun refuses a machine with both kinds of control groups (systemd's hybrid mode), even if it is to make none."""
_CRUN = ("unshare", "--mount", "sh", "-c", _UNIFIED, "crun")


def held() -> list[str]:
    """The capabilities of this process: no container can have more, and a privileged one has as many."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff:"))
    bits = int(line.split()[1], 16)
    return [f"CAP_{name}" for number, name in enumerate(_CAPABILITIES.split()) if bits >> number & 1]


class Container:
    """One container to run, in the foreground: its process ends with it and passes signals on."""

    def __init__(
        self,
        root: Path,
        home: Path,
        words: Sequence[str],
        *,
        network: Path,
        binds: Mapping[str, Path] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`home` is where its files may lie; `binds` are directories of this machine by their place inside."""
        self.name = f"kube-router-image-{os.getpid()}-{next(_COUNT)}"
        self._folder = home / self.name
        self._folder.mkdir()
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})}
        capabilities = held()
        mounts: list[dict[str, Any]] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        ]
        for place, source in (binds or {}).items():
            mounts.append({"destination": place, "type": "bind", "source": str(source), "options": ["rbind", "rw"]})
        if Path("/lib/modules").is_dir():
            found = {"destination": "/lib/modules", "source": "/lib/modules"}
            mounts.append({**found, "type": "bind", "options": ["rbind", "ro"]})
        settings = {
            "ociVersion": "1.0.2",
            "root": {"path": str(root)},
            "process": {
                "args": list(words),
                "env": [f"{key}={value}" for key, value in variables.items()],
                "cwd": "/root",
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            },
            "mounts": mounts,
            "linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": str(network)}]},
        }
        (self._folder / "config.json").write_text(json.dumps(settings))

    @property
    def argv(self) -> list[str]:
        """The command line that runs it."""
        return [*_CRUN, "run", "--bundle", str(self._folder), self.name]

    def remove(self) -> None:
        """End it and take it away, if it is still there."""
        words = [*_CRUN, "delete", "--force", self.name]
        subprocess.run(words, capture_output=True, timeout=30, check=False)

    def run(self, bound: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        try:
            return subprocess.run(
                self.argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=bound,
                check=False,
            )
        finally:
            self.remove()
