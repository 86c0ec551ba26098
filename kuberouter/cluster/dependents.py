"""Which change dirties which compile key: the only such table, one function per controller.

A function gets the change and the view in which it is already applied, and yields the owners to compile again. It must
yield every owner whose fragment could differ, and should yield few others: the cost of an event is what it yields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kuberouter.cluster.view import ClusterView
from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import ObjectRef, Owner, Value
from kuberouter.model.node import NodeFacts


class Change(Value, frozen=True, gc=False):
    """One object before and after; None is absent. NodeFacts changes come with kind `NodeFacts`.

    When the facts of the node change, every owner that was compiled before is compiled again by the planner itself;
    the functions here only have to name the owners that depend on nothing but the node.
    """

    ref: ObjectRef
    old: ClusterObject | NodeFacts | None
    new: ClusterObject | NodeFacts | None


Dependents = Callable[[Change, ClusterView], Iterable[Owner]]


def policies(change: Change, view: ClusterView) -> Iterable[Owner]:
    """Firewall: what the match index says of the event, in the order in which sets come before rules."""
    if change.ref.kind == "NodeFacts":
        yield Owner("firewall", ObjectRef("Node", "", change.ref.name))
        return
    touched = view.matches.touched
    yield from (Owner("policy", ref) for ref in touched.policies)
    yield from (Owner("membership", ref) for ref in touched.members)
    yield from (Owner("isolation", ref) for ref in touched.isolated)
