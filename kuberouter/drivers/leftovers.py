"""What only cleanup takes away: links of ours with nobody else's addresses on them, files, and lines of files."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Hashable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from kuberouter.drivers.addresses import AddressDriver
from kuberouter.drivers.network import LinkDriver
from kuberouter.model.core import Batch, Outcome
from kuberouter.model.host import LeftFile, LeftFileKey
from kuberouter.model.network import Link

RT_TABLES = ("/etc/iproute2/rt_tables", "/usr/lib/iproute2/rt_tables", "/usr/share/iproute2/rt_tables")
NAMED = re.compile(r"\s*(77\s+kube-router|78\s+kube-router-dsr|79\s+external_ip)\s*")
"""Lines that the Go kube-router adds to rt_tables(5)."""


class LeftLinkDriver(LinkDriver):
    """Links of ours, of which one that carries service addresses goes only if nobody else has put addresses there."""

    def __init__(self, names: Collection[str], served: Collection[str]) -> None:
        super().__init__(names)
        self._addresses = AddressDriver(served)

    def write(self, batch: Batch[Link]) -> Outcome:
        """Remove links; there are only removals."""
        others: dict[str, list[str]] = {}
        for row in self._addresses.read():
            # The kernel gives a link an IPv6 address of its own, which is no whole address.
            if row.key.length == len(row.key.address) * 8:
                others.setdefault(row.key.link, []).append(str(ip_address(row.key.address)))
        kept = {row.key: others[row.key.name] for row in batch.remove if row.key.name in others}
        outcome = super().write(Batch(remove=tuple(row for row in batch.remove if row.key not in kept)))
        failed: dict[Hashable, str] = {key: f"has addresses of others: {', '.join(a)}" for key, a in kept.items()}
        return Outcome({**outcome.failed, **failed})


class LeftFileDriver:
    """CNI configurations that lead to the pods' bridge, and names of routing tables."""

    def __init__(self, configurations: Collection[str], bridge: str, tables: Collection[str] = RT_TABLES) -> None:
        self._configurations = tuple(dict.fromkeys(configurations))
        self._bridge = bridge
        self._tables = tuple(tables)

    def owns(self, row: LeftFile) -> bool:
        """`read` yields nothing else."""
        return True

    def read(self) -> Iterable[LeftFile]:
        """Whole files, and lines. What cannot be read is nobody's."""
        for path in self._configurations:
            if self._leads_to_bridge(path):
                yield LeftFile(LeftFileKey(path))
        for path in self._tables:
            for line in _lines(path):
                if NAMED.fullmatch(line):
                    yield LeftFile(LeftFileKey(path, line.rstrip("\n")))

    def _leads_to_bridge(self, path: str) -> bool:
        try:
            found = json.loads(Path(path).read_text())
        except (OSError, ValueError):
            return False
        plugins = found.get("plugins", [found]) if isinstance(found, dict) else []
        return any(isinstance(each, dict) and each.get("bridge") == self._bridge for each in plugins)

    def write(self, batch: Batch[LeftFile]) -> Outcome:
        """Remove files and lines."""
        failed: dict[Hashable, str] = {}
        for row in batch.remove:
            path, line = Path(row.key.path), row.key.line
            try:
                if not line:
                    path.unlink(missing_ok=True)
                    continue
                text = path.read_text()
                path.write_text("".join(each for each in text.splitlines(keepends=True) if each.rstrip("\n") != line))
            except OSError as error:
                failed[row.key] = f"{path} cannot be changed: {error.strerror}"
        return Outcome(failed)


def _lines(path: str) -> Iterator[str]:
    try:
        yield from Path(path).read_text().splitlines(keepends=True)
    except (OSError, ValueError):
        return
