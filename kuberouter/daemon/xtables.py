"""Which iptables this node uses, and what has to be said when the other one is in use as well."""

from __future__ import annotations

import logging
from collections.abc import Collection

from kuberouter.drivers.former import survey
from kuberouter.drivers.iptables import Variant, Xtables, detect_variant
from kuberouter.engine.journal import Journal
from kuberouter.model.core import Family, ObjectRef, Owner, Problem, Reason
from kuberouter.model.meter import UNMETERED, Meter

log = logging.getLogger(__name__)

AUTO = "auto"
"""The value of `--iptables-mode` that leaves the choice to what the kubelet uses."""


class XtablesChoice:
    """The variant is found out when it is first needed, so that a missing tool is one table's trouble.

    It is looked for once in the life of the process, for a change in between would leave rules in both.
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
    ) -> None:
        self._mode = mode
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
            self._journal.report(Owner("iptables", self._node), self._problems(found))
        return self.found

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


def other(used: Xtables) -> Xtables:
    """The tools of the other variant."""
    return Xtables(Variant.LEGACY if used.variant is Variant.NFT else Variant.NFT)


def _show(family: Family) -> str:
    return "IPv4" if family is Family.IPV4 else "IPv6"
