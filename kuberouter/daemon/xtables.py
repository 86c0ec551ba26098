"""Which iptables this node uses, and what has to be said when the other one is in use as well."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from kuberouter.drivers.former import survey
from kuberouter.drivers.iptables import Variant, Xtables, detect_variant, hinted_variant
from kuberouter.engine.journal import Journal
from kuberouter.model.core import Batch, Family, ObjectRef, Outcome, Owner, Problem, Reason, Row
from kuberouter.model.meter import UNMETERED, Meter
from kuberouter.model.ports import Driver

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Row)

LOOK_AFTER = 60.0
"""Seconds for which what was seen of others counts; it takes a process per variant and family."""
AUTO = "auto"
"""The value of `--iptables-mode` that leaves the choice to what the kubelet uses."""


class XtablesChoice:
    """The variant is found out when it is first needed, so that a missing tool is one table's trouble.

    It is looked for once in the life of the process, for a change in between would leave rules in both. What else is in
    use is looked at again and again, for the kubelet or somebody else may come later.
    """

    def __init__(
        self,
        mode: str,
        node: str,
        families: Collection[Family],
        prefixes: tuple[str, ...],
        journal: Journal,
        *,
        meter: Meter = UNMETERED,
        clock: Callable[[], float] = time.monotonic,
        note: Path | None = None,
    ) -> None:
        """`note` is a file that tells programs beside the daemon which variant it is, if its directory exists."""
        self._mode = mode
        self._clock = clock
        self._note = note
        self._looked = 0.0
        self._meter = meter
        self._node = ObjectRef("Node", "", node)
        self._families = tuple(families)
        self._prefixes = prefixes
        self._journal = journal
        self.found: Xtables | None = None
        """The tools in use; None as long as nobody has needed them. May be read from any thread."""

    def get(self) -> Xtables:
        """The tools to use. Raises Unavailable when there are none. Called from the engine's thread."""
        if self.found is None:
            found = Xtables(detect_variant() if self._mode == AUTO else Variant(self._mode), self._meter)
            found.check()
            self.found = found
            log.info("iptables-%s is used (--iptables-mode=%s)", found.variant.value, self._mode)
            self._report(found)
            if self._note is not None:
                with contextlib.suppress(OSError):
                    self._note.write_text(f"{found.variant.value}\n")
        return self.found

    def look(self) -> None:
        """Look again at what else is in use, unless that was a moment ago. Called from the engine's thread."""
        if self.found is not None and self._clock() - self._looked >= LOOK_AFTER:
            self._report(self.found)

    def _report(self, used: Xtables) -> None:
        self._looked = self._clock()
        self._journal.report(Owner("iptables", self._node), [*self._late(used), *self._problems(used)])

    def _late(self, used: Xtables) -> Iterator[Problem]:
        hinted = hinted_variant() if self._mode == AUTO else None
        if hinted not in (None, used.variant):
            text = (
                f"the kubelet has taken iptables-{hinted.value} since kube-router began with "
                f"iptables-{used.variant.value}; a restart of kube-router follows it"
            )
            yield Problem(self._node, "iptables", Reason.CONFLICT, text)

    def other(self) -> Xtables:
        """The tools of the variant that is not in use."""
        return other(self.get())

    def aside(self) -> tuple[tuple[Xtables, tuple[Family, ...]], ...]:
        """Where nothing of ours is in use: the other variant, and in this one the families that are turned off."""
        return (self.other(), tuple(Family)), (self.get(), tuple(f for f in Family if f not in self._families))

    def _problems(self, used: Xtables) -> list[Problem]:
        aside = other(used)
        found: list[Problem] = []
        stock = survey(aside, self._families, self._prefixes)
        if stock.others:
            where = ", ".join(f"{count} in {_show(family)} {table}" for family, table, count in stock.others)
            text = (
                f"somebody keeps rules in iptables-{aside.variant.value} ({where}) while kube-router uses "
                f"iptables-{used.variant.value}; the kernel applies both. --iptables-mode chooses"
            )
            found.append(Problem(self._node, "iptables", Reason.CONFLICT, text))
        for family, what in survey(used, self._families, self._prefixes).unread:
            text = (
                f"iptables-{used.variant.value} of this image cannot read what nft or another version of it wrote "
                f"({_show(family)}: {what}); its version should be that of the node's"
            )
            found.append(Problem(self._node, "iptables", Reason.UNSUPPORTED, text))
        return found


class Surveyed(Generic[R]):
    """A driver for which what else is in use is looked at whenever it reads: at every audit."""

    def __init__(self, driver: Driver[R], choice: XtablesChoice) -> None:
        self._driver = driver
        self._choice = choice

    def read(self) -> Iterable[R]:
        """What the driver reads."""
        self._choice.look()
        return self._driver.read()

    def owns(self, row: R) -> bool:
        """As the driver does."""
        return self._driver.owns(row)

    def write(self, batch: Batch[R]) -> Outcome:
        """As the driver does."""
        return self._driver.write(batch)


def other(used: Xtables) -> Xtables:
    """The tools of the other variant."""
    return Xtables(Variant.LEGACY if used.variant is Variant.NFT else Variant.NFT)


def _show(family: Family) -> str:
    return "IPv4" if family is Family.IPV4 else "IPv6"
