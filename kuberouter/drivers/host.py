"""Settings of the host: sysctls and the CNI configuration file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Hashable, Iterable
from pathlib import Path

from kuberouter.model.core import Batch, Outcome
from kuberouter.model.host import CniSettings, CniSettingsKey, Sysctl, SysctlKey
from kuberouter.wire.netlink import load_module
from kuberouter.wire.sysctl import DIRECTORY
from kuberouter.wire.text import cni

MODULES = {"net/bridge/": "br_netfilter", "net/ipv4/vs/": "ip_vs"}
"""Kernel modules that bring settings, by path prefix."""
BEFORE_FORWARDING = "/accept_ra"
"""Linux forgets default routes of router advertisements when it begins to forward, but of links that have this set."""

Changed = Callable[[str, str, str], None]
"""Told of each setting that was changed: its name, the value before, the value now."""


class SysctlDriver:
    """Kernel settings below `root`. What was there before is not kept: a removal leaves the value as it is."""

    def __init__(self, root: Path = DIRECTORY, changed: Changed = lambda name, old, new: None) -> None:
        self._root = root
        self._changed = changed
        self._asked: dict[SysctlKey, Sysctl] = {}

    def owns(self, row: Sysctl) -> bool:
        """Whatever this process was asked to set; there is no telling who set a value before."""
        return row.key in self._asked

    def read(self) -> Iterable[Sysctl]:
        """The settings that were asked for so far; one that is as good as what was asked for is told as that."""
        rows: list[Sysctl] = []
        for asked in self._asked.values():
            try:
                value = (self._root / asked.key.path).read_text().strip()
            except OSError:
                if asked.instead_of:
                    rows.append(asked)
                continue
            fine = asked.instead_of and value != asked.instead_of
            rows.append(asked if fine else Sysctl(asked.key, value, asked.instead_of, asked.optional))
        return rows

    def write(self, batch: Batch[Sysctl]) -> Outcome:
        """Write what differs; a setting that does not exist names the module that would bring it."""
        failed: dict[Hashable, str] = {}
        wanted = (*batch.add, *(new for _, new in batch.change))
        for row in sorted(wanted, key=lambda row: not row.key.path.endswith(BEFORE_FORWARDING)):
            self._asked[row.key] = row
            error = self._set(row)
            if error:
                failed[row.key] = error
        for row in batch.remove:
            self._asked.pop(row.key, None)
        return Outcome(failed)

    def _set(self, row: Sysctl) -> str:
        path = row.key.path
        file = self._root / path
        module = next((name for prefix, name in MODULES.items() if path.startswith(prefix)), "")
        if not file.exists() and not (module and load_module(module) and file.exists()):
            if row.instead_of:
                return ""
            return f"kernel module {module} is missing" if module else "the kernel has no such setting"
        old = ""
        try:
            old = file.read_text().strip()
            if old == row.value or (row.instead_of and old != row.instead_of):
                return ""
            file.write_text(row.value)
        except OSError as error:
            return f"is {old or 'not readable'} and cannot be made {row.value}: {error.strerror}"
        self._changed(str(row.key), old, row.value)
        return ""


class CniDriver:
    """Our fields of CNI configuration files; a file whose name ends in `.conflist` is a list of plugins."""

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = tuple(paths)

    def owns(self, row: CniSettings) -> bool:
        """The files that were given."""
        return row.key.path in self._paths

    def read(self) -> Iterable[CniSettings]:
        """Our fields of the files that exist; one that is not understood counts as absent, and its writing fails."""
        rows: list[CniSettings] = []
        for path in self._paths:
            try:
                ranges, mtu = cni.read(Path(path).read_text())
            except (OSError, ValueError):
                continue
            rows.append(CniSettings(CniSettingsKey(path), ranges, mtu))
        return rows

    def write(self, batch: Batch[CniSettings]) -> Outcome:
        """Merge our fields in and replace the file in one step, so that the kubelet never reads half of it."""
        failed: dict[Hashable, str] = {}
        for row in (*batch.add, *(new for _, new in batch.change)):
            path = Path(row.key.path)
            try:
                old = path.read_text() if path.exists() else cni.template(path.suffix.lower() == ".conflist")
                new = cni.merge(old, row.ranges, row.mtu)
                if not path.exists() or new != old:
                    _replace(path, new)
            except ValueError as error:
                failed[row.key] = f"{path} is left as it is: {error}"
            except OSError as error:
                failed[row.key] = f"{path} cannot be written: {error.strerror}"
        return Outcome(failed)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name begins with a dot and has no suffix that the kubelet looks at.
    descriptor, draft = tempfile.mkstemp(prefix=".kube-router-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.rename(draft, path)
    except OSError:
        os.unlink(draft)
        raise
