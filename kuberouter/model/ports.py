"""The protocols that rooms implement for each other: Source, Inbox, Driver, Sink, Compiler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar, runtime_checkable

from kuberouter.model.core import Batch, Fragment, Outcome, Owner, Problem, Row
from kuberouter.model.events import Event
from kuberouter.model.node import NodeFacts
from kuberouter.model.pulse import Pulse

R = TypeVar("R", bound=Row)
V_contra = TypeVar("V_contra", contravariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


class Stop(Protocol):
    """A flag that ends a source; `threading.Event` is one."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Inbox(Protocol):
    """Where sources leave events. Safe to call from any thread; never blocks for long."""

    def put(self, event: Event) -> None: ...


class Source(Protocol):
    """A part of the world that speaks. Runs on its own thread until `stop` is set; touches nothing but the inbox.

    It emits `Synced(name)` once its first picture is whole, never before. It never raises for trouble outside: it logs,
    backs off with jitter and tries again.
    """

    @property
    def name(self) -> str: ...

    def run(self, inbox: Inbox, stop: Stop) -> None: ...


@runtime_checkable
class Informer(Source, Protocol):
    """A source that somebody tells of API objects, and that knows how long ago it heard anything."""

    def silence(self) -> float: ...


@runtime_checkable
class Living(Source, Protocol):
    """A source that shows whether its loop gets on: one that does not get on makes the process not alive."""

    @property
    def pulse(self) -> Pulse: ...


class Driver(Protocol[R]):
    """One table of the world that we write: read, owns, write.

    `read` returns the rows that exist, in the same form in which compilers write them. `owns` says how our rows are
    recognised after a restart; foreign rows never enter a difference. `write` applies a batch and reports each row
    that failed. Both raise `Unavailable` when the counterpart is missing as a whole.
    """

    def read(self) -> Iterable[R]: ...

    def owns(self, row: R) -> bool: ...

    def write(self, batch: Batch[R]) -> Outcome: ...


@runtime_checkable
class Filler(Protocol):
    """A driver that can write additions together with rows of another table that lie in what it adds."""

    def fill(self, batch: Batch[Any], content: Batch[Any]) -> tuple[Outcome, Outcome]:
        """As `write`, for both tables: what was made of the batch, and of the content."""


class Compiler(Protocol[V_contra, S_contra]):
    """A pure decision: what one owner claims, given what is known. `node` is None only for compilers that allow it."""

    def __call__(self, key: Owner, view: V_contra, *, node: NodeFacts, settings: S_contra) -> Fragment: ...


class Sink(Protocol):
    """Somebody who wants to hear about problems: the log, metrics, Kubernetes Events."""

    def raised(self, problem: Problem) -> None: ...

    def cleared(self, problem: Problem) -> None: ...
