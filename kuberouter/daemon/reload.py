"""The file of `--config` while we run: what of a change counts at once, and what waits for a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from kuberouter.daemon import configfile, logs
from kuberouter.daemon.commandline import Parsed
from kuberouter.daemon.config import Config, load
from kuberouter.daemon.flags import FLAGS, Value

log = logging.getLogger(__name__)

Stamp = tuple[int, ...]
LOGGING = frozenset(("v", "log-format"))
LIVE = LOGGING | {"injected-routes-sync-period", "iptables-sync-period", "ipvs-sync-period", "routes-sync-period"}
"""What counts at once; a new period does from the end of the one that runs."""


class Periodic(Protocol):
    """What happens again and again."""

    period: float


class Reloader:
    """Compares what the file says with what is in force, and brings into force what can be."""

    def __init__(
        self,
        line: Parsed,
        now: Parsed,
        periods: Mapping[str, Periodic],
        *,
        check: Callable[[Parsed], tuple[Config | None, list[str]]] = load,
        setup: Callable[[int, str], None] = logs.setup,
    ) -> None:
        """`line` is the command line alone, `now` what is in force; `periods` are by the flag that sets them."""
        self._line = line
        self._now = now
        self._periods = periods
        self._check = check
        self._setup = setup
        self._path = Path(str(line.values["config"]))
        self._stamp = self._look()
        self._waiting: tuple[str, ...] = ()

    def changed(self) -> bool:
        """Whether the file is another one than when it was read last; that of a ConfigMap is replaced as a whole."""
        return bool(self._line.values["config"]) and self._look() not in (self._stamp, ())

    def _look(self) -> Stamp:
        try:
            found = self._path.stat()
        except OSError:
            # Whoever writes it may be at it.
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def reload(self) -> None:
        """Read the file again. What cannot be used as a whole changes nothing."""
        if not self._line.values["config"]:
            log.info("SIGHUP: there is no --config that could be read again")
            return
        self._stamp = self._look()
        wanted, errors = configfile.merge(self._line)
        logs.REDACTOR.hide(secrets(self._now) | secrets(wanted))
        if not errors:
            errors = self._check(wanted)[1]
        if errors:
            log.error("--config: nothing of it is taken over: %s", "; ".join(errors))
            return
        changes = configfile.changes(self._now, wanted)
        live = [name for name in changes if name in LOGGING or name in self._periods]
        self._apply(live, wanted)
        waiting = tuple(name for name in changes if name not in live)
        log.info("--config: read again; changed at once: %s", _flags(live))
        if waiting:
            log.warning("--config: needs a restart: %s", _flags(waiting))
        elif self._waiting:
            log.info("--config: no restart is needed any more")
        self._waiting = waiting

    def _apply(self, names: list[str], wanted: Parsed) -> None:
        values: dict[str, Value] = {name: wanted.values[name] for name in names}
        for name, value in values.items():
            if name in self._periods and isinstance(value, float):
                self._periods[name].period = value
        self._now = Parsed({**self._now.values, **values}, wanted.given, wanted.positionals)
        if not LOGGING.isdisjoint(names):
            self._setup(int(str(self._now.values["v"])), str(self._now.values["log-format"]))


def secrets(parsed: Parsed) -> set[str]:
    """What was given to secret flags, as it was given."""
    lists = (parsed.values[flag.name] for flag in FLAGS if flag.secret)
    return {str(item).strip() for found in lists if isinstance(found, tuple) for item in found}


def _flags(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"--{name}" for name in names) or "nothing"
