"""The read-only face of what we know: the only thing of the cluster that compilers see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from kuberouter.cluster.allocations import MarkIndex
from kuberouter.cluster.bindings import BindingIndex
from kuberouter.cluster.departures import DepartureIndex, GraceIndex
from kuberouter.cluster.frontends import FrontendIndex
from kuberouter.cluster.hairpins import HairpinIndex
from kuberouter.cluster.indexes import MatchIndex
from kuberouter.cluster.localendpoints import LocalEndpointIndex
from kuberouter.cluster.receivers import ReceiverIndex
from kuberouter.cluster.routes import RouteIndex
from kuberouter.model.bgp import NodeBgp
from kuberouter.model.cluster import (
    ClusterObject,
    Departed,
    EndpointSlice,
    ForeignRoute,
    Interface,
    KnownMark,
    LearnedRoute,
    LocalPod,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    PodLink,
    Service,
)
from kuberouter.model.core import ObjectRef
from kuberouter.model.node import NodeFacts

T = TypeVar("T")

KINDS: tuple[type[ClusterObject], ...] = (
    Service,
    EndpointSlice,
    Pod,
    Namespace,
    NetworkPolicy,
    Node,
    Interface,
    PodLink,
    LearnedRoute,
    ForeignRoute,
    LocalPod,
    KnownMark,
    Departed,
)


class ClusterView:
    """Objects by kind and reference, and the few indexes that decisions need. Readers never change it."""

    def __init__(self, node: str = "") -> None:
        self._objects: dict[type[ClusterObject], dict[ObjectRef, ClusterObject]] = {kind: {} for kind in KINDS}
        self._services, self._endpoint_slices = self._objects[Service], self._objects[EndpointSlice]
        self._pods = self._objects[Pod]
        self._slices: dict[ObjectRef, dict[ObjectRef, EndpointSlice]] = {}
        self._node: NodeFacts | None = None
        self._bgp = NodeBgp()
        self._draining = self._unschedulable = False
        self.frontends = FrontendIndex(node)
        """Which Service owns an address with a port, and which groups of endpoints have ready ones."""
        self.marks = MarkIndex()
        """Which firewall mark belongs to which place."""
        self.local_endpoints = LocalEndpointIndex(node)
        """How many endpoints of a Service on the node of this name are ready for new connections."""
        self.receivers = ReceiverIndex(node, self.slices_of)
        """Which endpoints on the node of this name answer clients directly."""
        self.hairpins = HairpinIndex()
        """Whether any Service asks that its endpoints can reach themselves."""
        self.matches = MatchIndex(node)
        """Which policies select which pods of the node of this name, and which pods are in which sets."""
        self.bindings = BindingIndex(node)
        """Which links lead to which pods of the node of this name."""
        self.routes = RouteIndex()
        """Which nodes have which addresses, and which learned routes lead through them."""
        self.departures = DepartureIndex()
        """Destinations that are no longer wanted and keep their connections."""
        self.graces = GraceIndex()
        """How long the pod at an address may take to end."""
        self.worked_out: dict[ObjectRef, object] = {}
        """What compilers have worked out of this state, by subject, for who needs it next. It must rest on nothing that
        tells of endpoints or pods: the store empties it with every change of anything else.
        """

    @property
    def node(self) -> NodeFacts | None:
        """This node, or None as long as its Node object or its address is not known."""
        return self._node

    @property
    def bgp(self) -> NodeBgp:
        """What annotations of this node say of BGP; kept if its Node object vanishes, as the facts are."""
        return self._bgp

    @property
    def draining(self) -> bool:
        """This node is about to go; kept likewise."""
        return self._draining

    @property
    def unschedulable(self) -> bool:
        """This node takes no new pods; kept likewise."""
        return self._unschedulable

    @property
    def readable(self) -> bool:
        """Whether this node's annotations about BGP can be read, or what they last said is known."""
        return self._node is not None and not self._bgp.unreadable

    def _get(self, kind: type[T], ref: ObjectRef) -> T | None:
        obj = self._objects[kind].get(ref)  # type: ignore[index]  # T is one of KINDS
        return obj if isinstance(obj, kind) else None

    def _all(self, kind: type[T]) -> Iterable[T]:
        return self._objects[kind].values()  # type: ignore[index,return-value]  # the table of a kind holds that kind

    def exists(self, ref: ObjectRef) -> bool:
        """Whether an object of this reference is known."""
        return any(ref in table for table in self._objects.values())

    def service(self, ref: ObjectRef) -> Service | None:
        """The Service of this reference."""
        found = self._services.get(ref)
        return found if isinstance(found, Service) else None

    def services(self) -> Iterable[Service]:
        """All Services."""
        return self._all(Service)

    def slice(self, ref: ObjectRef) -> EndpointSlice | None:
        """The EndpointSlice of this reference."""
        found = self._endpoint_slices.get(ref)
        return found if isinstance(found, EndpointSlice) else None

    def slices_of(self, service: ObjectRef) -> Mapping[ObjectRef, EndpointSlice]:
        """The EndpointSlices of a Service by their reference."""
        return self._slices.get(service, {})

    def pod(self, ref: ObjectRef) -> Pod | None:
        """The Pod of this reference."""
        found = self._pods.get(ref)
        return found if isinstance(found, Pod) else None

    def local_pod(self, ref: ObjectRef) -> LocalPod | None:
        """The pod of this node of this reference, as its container runtime knows it."""
        return self._get(LocalPod, ref)

    def pods(self) -> Iterable[Pod]:
        """All Pods of the cluster."""
        return self._all(Pod)

    def namespace(self, ref: ObjectRef) -> Namespace | None:
        """The Namespace of this reference."""
        return self._get(Namespace, ref)

    def namespaces(self) -> Iterable[Namespace]:
        """All Namespaces."""
        return self._all(Namespace)

    def policy(self, ref: ObjectRef) -> NetworkPolicy | None:
        """The NetworkPolicy of this reference."""
        return self._get(NetworkPolicy, ref)

    def policies(self) -> Iterable[NetworkPolicy]:
        """All NetworkPolicies."""
        return self._all(NetworkPolicy)

    def node_object(self, name: str) -> Node | None:
        """The Node object of this name."""
        return self._get(Node, ObjectRef("Node", "", name))

    def nodes(self) -> Iterable[Node]:
        """All Node objects, this node's included."""
        return self._all(Node)

    def interfaces(self) -> Iterable[Interface]:
        """This node's links."""
        return self._all(Interface)

    def pod_link(self, ref: ObjectRef) -> PodLink | None:
        """The link to a pod of this reference."""
        return self._get(PodLink, ref)

    def pod_links(self) -> Iterable[PodLink]:
        """All links of this node to pods."""
        return self._all(PodLink)

    def learned(self, ref: ObjectRef) -> LearnedRoute | None:
        """The learned route of this reference."""
        return self._get(LearnedRoute, ref)

    def departed(self, ref: ObjectRef) -> Departed | None:
        """The departed destination of this reference."""
        return self._get(Departed, ref)

    def foreign(self, learned: ObjectRef) -> ForeignRoute | None:
        """What this host has for the prefix of a learned route by other means."""
        return self._get(ForeignRoute, ObjectRef("ForeignRoute", "", learned.name))

    def learned_routes(self) -> Iterable[LearnedRoute]:
        """All routes that gobgpd learned."""
        return self._all(LearnedRoute)
