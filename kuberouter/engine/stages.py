"""The write order, as data. Order is safety: each line says what must exist before what, and why.

The steps run from top to bottom in every pass. ADD steps write additions and changes, REMOVE steps write removals.
"""

from __future__ import annotations

import enum

from kuberouter.model.bgp import (
    DefinedSet,
    NeighborSetEntry,
    Path,
    Peer,
    Policy,
    PolicyAssignment,
    PrefixSetEntry,
    Speaker,
    Statement,
)
from kuberouter.model.core import Row
from kuberouter.model.host import CniSettings, HealthPort, NoSourceCheck, Sysctl
from kuberouter.model.ipvs import Destination, IpvsTimeout, VirtualService
from kuberouter.model.netfilter import (
    Chain,
    FormerChain,
    FormerDirect,
    FormerEgress,
    FormerHook,
    FormerIptables,
    FormerPolicy,
    FormerProxy,
    Hook,
    IpSet,
    Member,
)
from kuberouter.model.network import Address, BridgePort, FouPort, Link, LocalRoute, PolicyRule, Route
from kuberouter.model.nftables import FormerTable, NftChain, NftElement, NftSet, NftTable, NftVerdict
from kuberouter.model.receivers import PodReceiver


class Action(enum.Enum):
    """Which part of a batch a step writes."""

    ADD = "add"
    REMOVE = "remove"


Step = tuple[type[Row], Action]

WITHDRAWN_FIRST: tuple[type[Row], ...] = (Path, HealthPort)
"""Rows that attract traffic from elsewhere go before what serves that traffic."""

ADD_ORDER: tuple[type[Row], ...] = (
    Sysctl,  # forwarding and bridge filtering before any packet depends on them
    IpvsTimeout,
    IpSet,
    Member,  # sets are full before rules match them
    Chain,
    FormerChain,
    FormerHook,  # before its chain: these are only removed, and that from the bottom up
    FormerDirect,  # the Go kube-router's way to bring packets to IPVS, once ours stands
    FormerTable,  # what the other backend of the firewall wrote, as a whole
    FormerIptables,
    NftTable,
    NftSet,
    NftElement,  # sets are full before rules match them
    NftChain,
    NftVerdict,  # what a pod is led to stands whole
    FormerEgress,
    FormerProxy,  # before the chain that it jumps to
    FormerPolicy,  # likewise, wherever these chains are
    Hook,  # policy, guard and SNAT stand before anything can be reached
    FouPort,  # what tunnels send elsewhere comes here as well, from nodes that are quicker
    Link,  # links before what lies on them
    PodReceiver,  # a pod takes packets out of the tunnel before it is sent any
    BridgePort,
    VirtualService,
    Destination,  # a service has its destinations before its VIP attracts traffic
    Address,
    LocalRoute,
    HealthPort,  # draws traffic from load balancers, so what serves it stands by now
    Route,
    PolicyRule,
    NoSourceCheck,
    Speaker,
    DefinedSet,
    PrefixSetEntry,  # sets are full before a path or a peer is judged by them: GoBGP does not judge again
    NeighborSetEntry,
    Statement,
    Policy,
    PolicyAssignment,  # without one GoBGP accepts and exports everything
    Path,  # what serves the traffic that it attracts stands by now
    Peer,  # a restarted daemon has all its paths before the first session: what it does not tell then is forgotten
    CniSettings,  # the kubelet starts pods once the file is there, so the datapath comes first
)

STEPS: tuple[Step, ...] = (
    *((row, Action.REMOVE) for row in WITHDRAWN_FIRST),
    *((row, Action.ADD) for row in ADD_ORDER),
    *((row, Action.REMOVE) for row in reversed(ADD_ORDER) if row not in WITHDRAWN_FIRST),
)

REFERENCES: dict[type[Row], tuple[type[Row], ...]] = {
    Member: (IpSet,),
    Chain: (IpSet, Member),
    Hook: (Chain,),
    NftSet: (NftTable,),
    NftElement: (NftSet,),
    NftChain: (NftSet, NftElement),
    NftVerdict: (NftChain,),
    Destination: (VirtualService,),
    Address: (VirtualService, Link),
    LocalRoute: (VirtualService,),
    HealthPort: (VirtualService, Destination),
    Route: (Link,),
    DefinedSet: (Speaker,),
    PrefixSetEntry: (DefinedSet,),
    NeighborSetEntry: (DefinedSet,),
    Statement: (DefinedSet,),
    Policy: (Statement,),
    PolicyAssignment: (Policy, PrefixSetEntry, NeighborSetEntry),
    Path: (PolicyAssignment,),
    Peer: (PolicyAssignment, Path),
}
"""Tables whose absence as a whole (a missing kernel module, a dead daemon) holds back the additions of a table."""

STANDING_BEFORE: dict[type[Row], tuple[type[Row], ...]] = {CniSettings: (Sysctl, Chain, Hook, NftTable, NftChain)}
TRIED_BEFORE: dict[type[Row], tuple[type[Row], ...]] = {
    CniSettings: (IpSet, Member, NftSet, NftElement, NftVerdict, Link, Route, PolicyRule)
}
"""The same row by row: nothing is added to a table before every row that is desired of the former stands, and of the
latter stands or was refused. One route that cannot be, or one entry, is no reason to start no pods.
"""

CONTENTS: dict[type[Row], type[Row]] = {NftSet: NftElement}
"""Tables whose additions are written together with those of another that lie in them, where the driver is a `Filler`:
the kernel finds a set at once that is new in the same transaction, and any other by walking along all of them.
"""

READ_TOGETHER: dict[type[Row], tuple[type[Row], ...]] = {
    Chain: (Hook,),
    Hook: (Chain,),
    VirtualService: (Destination,),
    Destination: (VirtualService,),
}
"""Tables that one look at the kernel shows: who wants one of them read gets all, and so pays for one look only."""

SUCCESSORS: dict[type[Row], tuple[type[Row], ...]] = {
    FormerChain: (Chain, Hook),
    FormerHook: (Chain, Hook),
    FormerDirect: (Chain, Hook, VirtualService, Destination, Address),
    FormerProxy: (Chain, Hook),
    FormerEgress: (IpSet, Member, Hook),
    FormerPolicy: (Chain, Hook, NftTable, NftSet, NftElement, NftChain, NftVerdict),
    FormerTable: (IpSet, Member, Chain, Hook),
    FormerIptables: (NftTable, NftSet, NftElement, NftChain, NftVerdict),
}
"""Tables that take over from a table: of that one nothing is removed before everything desired stands in these."""
