"""The shape of a controller's part: names, tables, sources and compilers as `daemon/compose.py` reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from kuberouter.cluster.dependents import Dependents
from kuberouter.cluster.view import ClusterView
from kuberouter.daemon.metrics import Series
from kuberouter.decode import Decode
from kuberouter.engine.planner import History, Registered
from kuberouter.model.core import Row
from kuberouter.model.netfilter import HookRank
from kuberouter.model.ports import Source

DriverMaker = Callable[[], Any]


class Part:
    """What one controller brings along."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.watched: tuple[str, ...] = ()
        """Kinds of API objects that it needs, by the name of their source."""
        self.sources: list[Source] = []
        self.compilers: list[Registered] = []
        self.dependents: list[Dependents] = []
        self.drivers: dict[type[Row], DriverMaker] = {}
        self.needs: frozenset[str] = frozenset()
        self.ready_with: frozenset[str] = frozenset()
        """What it starts without, and is not ready before it is known."""
        self.removals_await: dict[type[Row], str] = {}
        """A source that, besides `needs`, must be in sync before rows of a table are removed."""
        self.read_late: tuple[type[Row], ...] = ()
        """Tables of which it depends on what is wanted what is ours, so `needs` come before the first read."""
        self.chain_prefixes: tuple[str, ...] = ()
        self.hooks: tuple[HookRank, ...] = ()
        """Ranks of its rules in builtin chains."""
        self.sets: tuple[str, ...] = ()
        """Names or prefixes of its sets, without `inet6:`."""
        self.links: tuple[str, ...] = ()
        """Names of the links that it makes."""
        self.link_prefixes: tuple[str, ...] = ()
        self.alive: Callable[[], bool] = lambda: True
        """Whether the engine does its work, well or not; known once the parts are put together."""
        self.desired: Callable[[type[Row]], Container[Hashable]] = lambda row: ()
        """The keys of a table that are wanted now; known once the parts are put together."""
        self.view: Callable[[], ClusterView] = ClusterView
        """What is known of the cluster; known once the parts are put together. Who is not on the engine's thread
        looks at it by `daemon/steady.py`."""
        self.lenient: frozenset[type[Row]] = frozenset()
        """Tables whose trouble is told, but leaves the controller ready."""
        self.history: History | None = None
        self.inherit: dict[type[Row], Callable[[Collection[Any]], None]] = {}
        """Who is told what a table held before this process."""
        self.brief: dict[str, Decode] = {}
        """Of watched kinds it may be that only a little is needed: how to read that much."""
        self.shows: list[Callable[[], Iterable[Series]]] = []
        """Metrics of its own."""
        self.audits: list[tuple[str, float, tuple[type[Row], ...]]] = []

    @property
    def strict(self) -> tuple[type[Row], ...]:
        """Tables that the controller cannot do without."""
        return tuple(row for row in self.drivers if row not in self.lenient)


def register(
    part: Part,
    compilers: Collection[tuple[str, Any]],
    settings: object,
    *,
    besides: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Name the compilers of a part; they wait for what the part needs, and some of them for one thing `besides`."""
    for name, compile_ in compilers:
        needs = (*part.needs, besides[name]) if name in besides else part.needs
        part.compilers.append(Registered(name, part.name, compile_, settings, needs))


def shared() -> Any:
    """In the place of a driver that several parts use: `daemon/compose.py` makes it, for all of them."""
    raise AssertionError("the table is shared; its driver is made in daemon/compose.py")


class Once:
    """Something that several drivers share, made at its first use."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def get(self) -> Any:
        """The thing."""
        if self._made is None:
            self._made = self._make()
        return self._made
