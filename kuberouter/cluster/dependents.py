"""Which change dirties which compile key: the only such table, one function per controller.

A function gets the change and the view in which it is already applied, and yields what to compile again: compilers,
each with its subjects, or with owners where a subject has several. It must yield everything whose fragment could
differ, and should yield little else: the cost of an event is what it yields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kuberouter.cluster.routes import node_addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.model.cluster import ClusterObject, EndpointSlice, Namespace, Node, Service
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


Key = ObjectRef | Owner
"""What stands for an owner under the name of its compiler. A start marks the same pods over and over: a subject is
there already, an owner would have to be made each time."""
Dirty = tuple[str, Iterable[Key]]
Dependents = Callable[[Change, ClusterView], Iterable[Dirty]]


def policies(change: Change, view: ClusterView) -> Iterable[Dirty]:
    """Firewall: what the match index says of the event, in the order in which sets come before rules."""
    kind = change.ref.kind
    found: list[Dirty] = []
    if kind == "NodeFacts":
        return (("firewall", (ObjectRef("Node", "", change.ref.name),)),)
    if kind == "Namespace":
        if any(isinstance(each, Namespace) and each.default_deny for each in (change.old, change.new)):
            found.append(("annotation", (change.ref,)))
    elif kind == "Node":
        found.append(("cluster-addresses", (change.ref,)))
    elif kind == "Service":
        found.append(("served", (change.ref,)))
    touched, bound = view.matches.touched, view.bindings.touched
    if direct := _direct(change, view):
        bound = bound.union(*map(view.bindings.pods_at, direct))
    if touched.policies:
        found.append(("policy", touched.policies))
    if touched.members:
        found.append(("membership", touched.members))
    if touched.isolated:
        found.append(("isolation", touched.isolated))
    if touched.isolated or bound:
        found.append(("binding", (*touched.isolated, *bound)))
    return found


def services(change: Change, view: ClusterView) -> Iterable[Dirty]:
    """Service proxy: a Service touches its slices; a slice only itself, unless it was the first or last ready one.

    A departed destination touches nobody else: the claims of those who want it come first by rank.
    """
    kind = change.ref.kind
    if kind == "EndpointSlice":
        found = _slice(change, view)
    elif kind == "Service":
        found = _of_service(change, view)
    else:
        found = list(_of_others(change, view))
    for address in _direct(change, view):
        found.append(("receivers", view.receivers.pods(address)))
    if view.marks.began and view.node is not None:
        found.append(("direct", (ObjectRef("Node", "", view.node.name),)))
    return found


def _of_service(change: Change, view: ClusterView) -> list[Dirty]:
    ref = change.ref
    found = [*_service(ref, view)]
    for each in (change.old, change.new):
        if each is not None and isinstance(each, Service) and each.health_check_node_port:
            found.append(("health", (ref,)))
    if view.hairpins.flipped:
        found.append(("bridge-port", [link.ref for link in view.pod_links()]))
    for others in (view.frontends.contenders, view.marks.moved):
        for other in others:
            found += _service(other, view)
    return found


def _of_others(change: Change, view: ClusterView) -> Iterable[Dirty]:
    ref = change.ref
    if ref.kind == "PodLink":
        yield "bridge-port", (ref,)
    elif ref.kind == "KnownMark":
        for other in view.marks.moved:
            yield from _service(other, view)
    elif ref.kind == "LocalPod":
        yield "receivers", (ref,)
    elif ref.kind == "Node":
        yield "podsubnets", (ref,)
        before, after = (set(node_addresses(n)) if isinstance(n, Node) else set() for n in (change.old, change.new))
        # Neither the address of a node nor who has one can answer directly.
        for service in view.marks.users() if before != after else ():
            yield from _service(service, view)
        # What others ask for at the address of a node is served by that node alone.
        for address in before ^ after:
            for service in view.frontends.asking(address):
                yield from _service(service, view)
    elif ref.kind == "Departed":
        yield "drain", (ref,)
    elif ref.kind == "NodeFacts":
        node = ObjectRef("Node", "", ref.name)
        yield "proxy", (node,)
        yield "direct", (node,)


def _service(service: ObjectRef, view: ClusterView) -> Sequence[Dirty]:
    slices = view.slices_of(service)
    if not slices:
        return (("services", (service,)),)
    return ("services", (service,)), ("destinations", _destinations(service, slices))


def _slice(change: Change, view: ClusterView) -> list[Dirty]:
    flipped = view.frontends.flipped
    found: list[Dirty] = [("destinations", _destinations(service, view.slices_of(service))) for service in flipped]
    old, new = change.old, change.new
    if isinstance(old, EndpointSlice) and not (isinstance(new, EndpointSlice) and new.service == old.service):
        found.append(("destinations", _destinations(old.service, (old.ref,))))
    if isinstance(new, EndpointSlice) and new.service not in flipped:
        found.append(("destinations", _destinations(new.service, (new.ref,))))
    touched = view.local_endpoints.touched
    if touched and (checked := [service for service in touched if _checked(service, view)]):
        found.append(("health", checked))
    return found


def _destinations(service: ObjectRef, slices: Iterable[ObjectRef]) -> list[Owner]:
    return [Owner("destinations", service, each.name) for each in slices]


def _direct(change: Change, view: ClusterView) -> frozenset[bytes]:
    """Endpoints of this node for which the change may have altered from which addresses they answer directly."""
    services = view.marks.moved
    if change.ref.kind == "Service":
        if contenders := view.frontends.contenders:
            services = services | contenders
    elif change.ref.kind == "Node":
        # Nobody answers from the address of a node.
        services = services.union(view.marks.users())
    touched = view.receivers.touched
    if not services:
        return touched
    return touched.union(address for service in services for address in view.receivers.addresses(service))


def _checked(service: ObjectRef, view: ClusterView) -> bool:
    found = view.service(service)
    return found is not None and bool(found.health_check_node_port)


def routing(change: Change, view: ClusterView) -> Iterable[Dirty]:
    """Route controller: a node touches its peer, its set members and the routes through addresses it won or lost; a
    slice the Services that it makes reachable or not.
    """
    ref = change.ref
    if ref.kind == "NodeFacts":
        subject = ObjectRef("Node", "", ref.name)
        for name in ("plumbing", "cni", "cloud", "speaker", "exports", "advertise", "external"):
            yield name, (subject,)
    elif ref.kind == "Node":
        yield "nodesets", (ref,)
        yield "peer", (ref,)
        if view.node is not None and ref.name == view.node.name:
            yield from _own_bgp(change, view)
            yield from _own_end(change, view)
            yield "cloud", (ref,)
        before, after = (set(node_addresses(n)) if isinstance(n, Node) else set() for n in (change.old, change.new))
        for address in before ^ after:
            # A tunnel's name depends on which other addresses look like it.
            for each in {address, *view.routes.alike(address)}:
                yield "route", view.routes.routes_via(each)
            yield "advertise-service", view.frontends.asking(address)
    elif ref.kind == "LearnedRoute":
        yield "route", (ref,)
    elif ref.kind == "ForeignRoute":
        yield "route", (ObjectRef("LearnedRoute", "", ref.name),)
    elif ref.kind == "Service":
        yield "advertise-service", (ref, *view.frontends.contenders)
    elif ref.kind == "EndpointSlice" and (found := view.frontends.flipped | view.local_endpoints.touched):
        yield "advertise-service", tuple(found)


def _own_end(change: Change, view: ClusterView) -> Iterable[Dirty]:
    """A node that is about to go tells of no Service any more."""
    old, new = change.old, change.new
    # One that was not there may have been kept as it was before.
    before = (old.draining, old.unschedulable) if isinstance(old, Node) else None
    if isinstance(new, Node) and before != (new.draining, new.unschedulable):
        yield "advertise-service", tuple(service.ref for service in view.services())


def _own_bgp(change: Change, view: ClusterView) -> Iterable[Dirty]:
    """What annotations of this node say of BGP is about everybody that it peers with."""
    old = change.old.options.bgp if isinstance(change.old, Node) else None
    if old == view.bgp:
        return
    for name in ("speaker", "exports", "external"):
        yield name, (change.ref,)
    if old is None or (old.asn, old.reflector) != (view.bgp.asn, view.bgp.reflector):
        yield "peer", tuple(node.ref for node in view.nodes())
