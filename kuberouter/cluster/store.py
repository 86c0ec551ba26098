"""What we know of the cluster, in memory: apply an event, get the compile keys that it dirties.

An event that leaves the model value equal (a heartbeat, an annotation that we do not read) stops here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kuberouter.cluster.dependents import Change, Dependents, Dirty
from kuberouter.cluster.derived import Derive
from kuberouter.cluster.facts import node_facts
from kuberouter.cluster.lastgood import with_last_good
from kuberouter.cluster.view import ClusterView
from kuberouter.model.cluster import ClusterObject, EndpointSlice, Node
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.settings import NodeSettings

FACTS = ("Node", "Interface")
"""Kinds that the facts of this node are made of."""
ASIDE = frozenset(("EndpointSlice", "Pod", "Departed"))
"""Kinds that change most, and on which nothing of that rests which compilers work out for later."""


class Index(Protocol):
    """Something that follows objects of some kinds; nothing old and nothing new is no change."""

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one change."""


class Cluster(ClusterView):
    """The store behind the view. `dependents` say which change dirties which compile key, one per controller.

    `derive` says which objects follow from others; they live and die with those as if the API had told of them.
    """

    def __init__(
        self,
        settings: NodeSettings,
        dependents: Sequence[Dependents] = (),
        derive: Sequence[Derive] = (),
        *,
        graces: bool = False,
    ) -> None:
        """With `graces` it is kept for every pod how long that may take to end."""
        super().__init__(settings.name)
        self._settings = settings
        self._dependents = tuple(dependents)
        self._derive = tuple(derive)
        self._by_kind = {kind.__name__: table for kind, table in self._objects.items()}
        self._concerned: dict[str, tuple[Index, ...]] = {
            "Pod": (self.matches, self.bindings, *((self.graces,) if graces else ())),
            "Namespace": (self.matches,),
            "NetworkPolicy": (self.matches,),
            "PodLink": (self.bindings,),
            "Service": (self.frontends, self.marks, self.receivers, self.hairpins),
            "EndpointSlice": (self.frontends, self.local_endpoints, self.receivers),
            "Node": (self.routes,),
            "LearnedRoute": (self.routes,),
            "LocalPod": (self.receivers,),
            "KnownMark": (self.marks,),
            "Departed": (self.departures,),
        }
        self._updated: tuple[Index, ...] = ()
        """Those that the last change concerned."""
        self.facts_changed = False
        """Set when the last `apply` changed the facts of this node: every owner has to be compiled again."""

    @property
    def name(self) -> str:
        """That of this node, known or not."""
        return self._settings.name

    def apply(self, event: Upserted | Deleted) -> Sequence[Dirty]:
        """Take in one event; returns what it dirties, in an order that is good to compile in, some perhaps twice.

        Work is proportional to that.
        """
        self.facts_changed = False
        dirty: list[Dirty] = []
        self._take(event, dirty)
        return dirty

    def _take(self, event: Upserted | Deleted, dirty: list[Dirty]) -> None:
        if isinstance(event, Upserted):
            ref: ObjectRef = event.obj.ref
            new: ClusterObject | None = event.obj
        else:
            ref, new = event.ref, None
        kind = ref.kind
        table = self._by_kind[kind]
        old = table.get(ref)
        facts = kind in FACTS
        if facts and new is not None:
            new = with_last_good(old, new)
        if old == new:
            return
        if self.worked_out and kind not in ASIDE:
            self.worked_out = {}
        if new is None:
            del table[ref]
        else:
            table[ref] = new
        if facts and isinstance(new, Node) and ref.name == self._settings.name:
            self._bgp = new.options.bgp
            self._draining, self._unschedulable = new.draining, new.unschedulable
        self._index(kind, old, new)
        change = Change(ref, old, new)
        for dependents in self._dependents:
            dirty += dependents(change, self)
        if facts:
            self._update_facts(ref, dirty)
        for event_of in self._derive:
            derived = event_of(ref, new)
            if derived is not None:
                self._take(derived, dirty)

    def _index(self, kind: str, old: ClusterObject | None, new: ClusterObject | None) -> None:
        if kind == "EndpointSlice":
            self._file(old, new)
        concerned = self._concerned.get(kind, ())
        if concerned is not self._updated:
            # What the last change meant to indexes that this one does not concern is past.
            for index in self._updated:
                index.update(None, None)
            self._updated = concerned
        for index in concerned:
            index.update(old, new)

    def _file(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """File a slice under its Service."""
        if old is not None and isinstance(old, EndpointSlice):
            slices = self._slices[old.service]
            del slices[old.ref]
            if not slices:
                del self._slices[old.service]
        if isinstance(new, EndpointSlice):
            self._slices.setdefault(new.service, {})[new.ref] = new

    def _update_facts(self, ref: ObjectRef, dirty: list[Dirty]) -> None:
        if ref.kind == "Node" and ref.name != self._settings.name:
            return
        old, node = self._node, self.node_object(self._settings.name)
        new = node_facts(self._settings, node, self.interfaces(), had=old.bindable if old is not None else ())
        if new is None or new == old:
            # A Node object that vanishes under a running daemon is a mishap of the cluster, not ours: keep the facts.
            return
        self._node = new
        self.facts_changed = True
        change = Change(ObjectRef("NodeFacts", "", new.name), old, new)
        for dependents in self._dependents:
            dirty += dependents(change, self)
