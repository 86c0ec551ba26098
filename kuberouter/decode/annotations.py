"""Every annotation and label that we read: key, type, parser. The only place with the kube-router.io ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from kuberouter.decode import bgp
from kuberouter.decode.common import Trouble
from kuberouter.decode.scalars import address, boolean, prefix
from kuberouter.decode.schema import NamespacePolicy
from kuberouter.model.bgp import NodeBgp, PeerSpec, Prepend, Reflector
from kuberouter.model.cluster import NodeOptions, ServiceOptions
from kuberouter.model.core import Prefix, Reason, Secret

T = TypeVar("T")

SCHEDULERS = ("rr", "lc", "dh", "sh", "mh", "wrr", "wlc", "sed", "nq", "lblc", "lblcr", "fo", "ovf", "twos")
"""Every scheduler that Linux has had; one that this kernel lacks is found out when it is asked for."""
FLAGGED_SCHEDULERS = ("mh", "sh")
SCHED_FLAGS = {"flag-1": 0x08, "flag-2": 0x10, "flag-3": 0x20}
"""IP_VS_SVC_F_SCHED1 to 3. For mh and sh the first passes over endpoints of weight 0, the second hashes the port.

The third means nothing to any scheduler of today's kernels; the Go kube-router passes it on as well.
"""
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
OUR_PROXY_NAME = "kube-router"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
DRAIN_TAINT = "ToBeDeletedByClusterAutoscaler"
"""Key of the taint on nodes that the cluster autoscaler is about to remove, whatever its value and effect."""


def field(key: str) -> str:
    """Where an annotation is in its object."""
    return f"metadata.annotations[{key}]"


class Annotation(Generic[T]):
    """One annotation: its key, how its text is read, and what it is when absent or unusable."""

    def __init__(self, key: str, parse: Callable[[str], T], default: T) -> None:
        self.key = key
        self.parse = parse
        self.default = default

    def read(self, annotations: dict[str, str] | None, trouble: Trouble) -> T:
        """The value; an unusable one is a problem and counts as absent."""
        if not annotations or (text := annotations.get(self.key)) is None:
            return self.default
        try:
            return self.parse(text)
        except ValueError as error:
            trouble.add(field(self.key), f"{error}; it is ignored", Reason.UNSUPPORTED)
            return self.default


class Presence:
    """An annotation that counts by being there, whatever its text; a text that says no to that is a problem."""

    def __init__(self, key: str) -> None:
        self.key = key

    def read(self, annotations: dict[str, str] | None, trouble: Trouble) -> bool:
        """Whether it is there."""
        if not annotations or (text := annotations.get(self.key)) is None:
            return False
        if text not in ("", "true"):
            message = f"counts because it is there, {text!r} changes nothing; remove it to turn it off"
            trouble.add(f"metadata.annotations[{self.key}]", message, Reason.UNSUPPORTED)
        return True


class Override:
    """An annotation that overrides a flag: a boolean as Go reads it. One that is none turns off, as it always has."""

    def __init__(self, key: str) -> None:
        self.key = key

    def read(self, annotations: dict[str, str] | None, trouble: Trouble) -> bool | None:
        """What it says; None where it is absent."""
        if not annotations or (text := annotations.get(self.key)) is None:
            return None
        try:
            return boolean(text)
        except ValueError as error:
            trouble.add(field(self.key), f"{error}; it counts as false", Reason.UNSUPPORTED)
            return False


class Flags:
    """An annotation that is a comma-separated list of names, each of which stands for a bit."""

    def __init__(self, key: str, bits: dict[str, int]) -> None:
        self.key = key
        self._bits = bits

    def read(self, annotations: dict[str, str] | None, trouble: Trouble) -> int:
        """The bits of the names that are known; each other name is a problem, and takes nothing from those."""
        found = 0
        text = annotations.get(self.key, "") if annotations else ""
        for name in filter(None, dict.fromkeys(item.strip() for item in text.split(","))):
            if name not in self._bits:
                message = f"{name!r} is not a scheduler flag: any of {', '.join(self._bits)}; it is ignored"
                trouble.add(f"metadata.annotations[{self.key}]", message, Reason.UNSUPPORTED)
            found |= self._bits.get(name, 0)
        return found


def _scheduler(text: str) -> str:
    if text not in SCHEDULERS:
        raise ValueError(f"{text!r} is not a scheduler: one of {', '.join(sorted(SCHEDULERS))}")
    return text


def _switch(text: str) -> bool:
    if text not in ("true", "false", ""):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _dsr(text: str) -> bool:
    if text != "tunnel":
        raise ValueError(f"{text!r} is not a way of direct return: tunnel")
    return True


def _prefixes(text: str) -> tuple[Prefix, ...]:
    return tuple(prefix(item.strip()) for item in text.split(",") if item.strip())


def _addresses(text: str) -> tuple[bytes, ...]:
    return tuple(address(item.strip()) for item in text.split(",") if item.strip())


_NAMESPACE_POLICY = msgspec.json.Decoder(NamespacePolicy)


def _default_deny(text: str) -> bool:
    try:
        found = _NAMESPACE_POLICY.decode(text)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f'is not JSON such as {{"ingress":{{"isolation":"DefaultDeny"}}}}: {error}') from None
    isolation = found.ingress.isolation if found.ingress is not None else ""
    if isolation not in ("", "DefaultAllow", "DefaultDeny"):
        raise ValueError(f"ingress.isolation {isolation!r} is not DefaultDeny")
    return isolation == "DefaultDeny"


SERVICE_SCHEDULER = Annotation("kube-router.io/service.scheduler", _scheduler, "rr")
SERVICE_SCHED_FLAGS = Flags("kube-router.io/service.schedflags", SCHED_FLAGS)
SERVICE_LOCAL = Annotation("kube-router.io/service.local", _switch, False)
SERVICE_HAIRPIN = Presence("kube-router.io/service.hairpin")
SERVICE_HAIRPIN_EXTERNAL = Presence("kube-router.io/service.hairpin.externalips")
SERVICE_SKIP_LB_IPS = Presence("kube-router.io/service.skiplbips")
SERVICE_DSR = Annotation("kube-router.io/service.dsr", _dsr, False)
SERVICE_ADVERTISE_CLUSTER = Override("kube-router.io/service.advertise.clusterip")
SERVICE_ADVERTISE_EXTERNAL = Override("kube-router.io/service.advertise.externalip")
SERVICE_ADVERTISE_BALANCER = Override("kube-router.io/service.advertise.loadbalancerip")
SERVICE_LB_IPS: Annotation[tuple[bytes, ...]] = Annotation("kube-router.io/lb.ips", _addresses, ())
LB_CLASS = "kube-router"
"""`spec.loadBalancerClass` of Services that are to have addresses from the allocator."""
LB_CONDITION = "kube-router.io/LoadBalancerAddress"
"""Type of the condition in a Service's status by which the allocator says what it has given."""
NODE_DRAIN = Annotation("kube-router.io/drain", _switch, False)
NODE_POD_CIDRS: Annotation[tuple[Prefix, ...]] = Annotation("kube-router.io/pod-cidrs", _prefixes, ())
NODE_POD_CIDR: Annotation[tuple[Prefix, ...]] = Annotation("kube-router.io/pod-cidr", _prefixes, ())
NODE_ASN: Annotation[int | None] = Annotation("kube-router.io/node.asn", bgp.node_asn, None)
NODE_REFLECTOR = Annotation[Reflector | None]("kube-router.io/rr.server", bgp.reflector(server=True), None)
NODE_REFLECTED = Annotation[Reflector | None]("kube-router.io/rr.client", bgp.reflector(server=False), None)
NODE_PREPEND_ASN: Annotation[int | None] = Annotation("kube-router.io/path-prepend.as", bgp.node_asn, None)
NODE_PREPEND_REPEAT: Annotation[int | None] = Annotation("kube-router.io/path-prepend.repeat-n", bgp.repeat, None)
NODE_COMMUNITIES = Annotation[tuple[int, ...] | None]("kube-router.io/node.bgp.communities", bgp.communities, None)
NODE_IMPORT_REJECT = Annotation[tuple[Prefix, ...] | None](
    "kube-router.io/node.bgp.customimportreject", bgp.prefixes, None
)
NODE_LOCAL_ADDRESSES = Annotation[tuple[bytes, ...] | None](
    "kube-router.io/bgp-local-addresses", bgp.listed(address), None
)
NODE_PEERS = Annotation[tuple[PeerSpec, ...] | None]("kube-router.io/peers", bgp.peers_document, None)
NODE_PEER_IPS = Annotation[tuple[bytes, ...] | None]("kube-router.io/peer.ips", bgp.listed(bgp.host), None)
NODE_PEER_ASNS = Annotation[tuple[int, ...] | None]("kube-router.io/peer.asns", bgp.listed(bgp.peer_asn), None)
NODE_PEER_PORTS = Annotation[tuple[int, ...] | None]("kube-router.io/peer.ports", bgp.listed(bgp.peer_port), None)
NODE_PEER_PASSWORDS = Annotation[tuple[Secret | None, ...] | None](
    "kube-router.io/peer.passwords", bgp.listed(bgp.password), None
)
NODE_PEER_LOCAL = Annotation[tuple[bytes, ...] | None](
    "kube-router.io/peer.localips", bgp.listed(bgp.local_address), None
)
NAMESPACE_POLICY = Annotation("net.beta.kubernetes.io/network-policy", _default_deny, False)

_NO_OPTIONS = ServiceOptions()
_NO_BGP = NodeBgp()


def service_options(annotations: dict[str, str] | None, trouble: Trouble) -> ServiceOptions:
    """The typed annotations of a Service."""
    if not annotations:
        return _NO_OPTIONS
    scheduler = SERVICE_SCHEDULER.read(annotations, trouble)
    sched_flags = SERVICE_SCHED_FLAGS.read(annotations, trouble)
    if sched_flags and scheduler not in FLAGGED_SCHEDULERS:
        only = " and ".join(FLAGGED_SCHEDULERS)
        trouble.add(
            field(SERVICE_SCHED_FLAGS.key),
            f"only the schedulers {only} have flags, not {scheduler}; it is ignored",
            Reason.IGNORED,
        )
        sched_flags = 0
    return ServiceOptions(
        scheduler,
        sched_flags,
        SERVICE_LOCAL.read(annotations, trouble),
        SERVICE_HAIRPIN.read(annotations, trouble),
        SERVICE_HAIRPIN_EXTERNAL.read(annotations, trouble),
        SERVICE_SKIP_LB_IPS.read(annotations, trouble),
        SERVICE_DSR.read(annotations, trouble),
        SERVICE_ADVERTISE_CLUSTER.read(annotations, trouble),
        SERVICE_ADVERTISE_EXTERNAL.read(annotations, trouble),
        SERVICE_ADVERTISE_BALANCER.read(annotations, trouble),
    )


def node_options(annotations: dict[str, str] | None, trouble: Trouble) -> NodeOptions:
    """The typed annotations of a Node; `pod-cidrs` wins over the older `pod-cidr`."""
    listed = NODE_POD_CIDRS.read(annotations, trouble)
    cidrs = listed or NODE_POD_CIDR.read(annotations, trouble)
    bgp_options = _NodeBgp(annotations, trouble).read() if annotations else _NO_BGP
    # Most nodes of a cluster say nothing, and share that.
    return NodeOptions(cidrs, _NO_BGP if bgp_options == _NO_BGP else bgp_options)


class _NodeBgp:
    """Reads what a Node says of BGP. Of a field that cannot be used the last good value stays, hence its name."""

    def __init__(self, annotations: dict[str, str], trouble: Trouble) -> None:
        self._annotations = annotations
        self._trouble = trouble
        self._unreadable: dict[str, None] = {}

    def read(self) -> NodeBgp:
        return NodeBgp(
            self._value("asn", NODE_ASN) or 0,
            self._reflector(),
            self._prepend(),
            self._value("communities", NODE_COMMUNITIES) or (),
            self._value("import_reject", NODE_IMPORT_REJECT) or (),
            self._value("local_addresses", NODE_LOCAL_ADDRESSES) or (),
            self._peers(),
            tuple(self._unreadable),
        )

    def _has(self, key: str) -> bool:
        return key in self._annotations

    def _value(self, name: str, annotation: Annotation[T | None]) -> T | None:
        text = self._annotations.get(annotation.key)
        if text is None:
            return None
        try:
            return annotation.parse(text)
        except ValueError as error:
            self._unusable(name, annotation.key, str(error))
            return None

    def _unusable(self, name: str, key: str, why: str) -> None:
        self._unreadable[name] = None
        self._trouble.add(field(key), f"{why}; the last good value stays")

    def _ignored(self, key: str, why: str) -> None:
        self._trouble.add(field(key), f"{why}; it is ignored", Reason.IGNORED)

    def _reflector(self) -> Reflector | None:
        if not self._has(NODE_REFLECTOR.key):
            return self._value("reflector", NODE_REFLECTED)
        if self._has(NODE_REFLECTED.key):
            self._ignored(NODE_REFLECTED.key, f"{NODE_REFLECTOR.key} is there, too")
        return self._value("reflector", NODE_REFLECTOR)

    def _prepend(self) -> Prepend | None:
        if not self._has(NODE_PREPEND_ASN.key):
            if self._has(NODE_PREPEND_REPEAT.key):
                self._ignored(NODE_PREPEND_REPEAT.key, f"{NODE_PREPEND_ASN.key} is not there")
            return None
        if not self._has(NODE_PREPEND_REPEAT.key):
            self._unusable("prepend", NODE_PREPEND_ASN.key, f"{NODE_PREPEND_REPEAT.key} must be there, too")
            return None
        asn, repeat = self._value("prepend", NODE_PREPEND_ASN), self._value("prepend", NODE_PREPEND_REPEAT)
        return Prepend(asn, repeat) if asn and repeat else None

    def _peers(self) -> tuple[PeerSpec, ...] | None:
        lists = (NODE_PEER_IPS, NODE_PEER_ASNS, NODE_PEER_PORTS, NODE_PEER_PASSWORDS, NODE_PEER_LOCAL)
        present = [each.key for each in lists if self._has(each.key)]
        if self._has(NODE_PEERS.key):
            for key in present:
                self._ignored(key, f"{NODE_PEERS.key} is there, too")
            return self._value("peers", NODE_PEERS)
        if not present:
            return None
        for key in (NODE_PEER_IPS.key, NODE_PEER_ASNS.key):
            if not self._has(key):
                self._unusable("peers", present[0], f"{key} must be there, too")
                return None
        ips, asns = self._value("peers", NODE_PEER_IPS), self._value("peers", NODE_PEER_ASNS)
        ports, passwords = self._value("peers", NODE_PEER_PORTS), self._value("peers", NODE_PEER_PASSWORDS)
        local = self._value("peers", NODE_PEER_LOCAL)
        if "peers" in self._unreadable or ips is None or asns is None:
            return None
        try:
            return bgp.parallel(ips, asns, ports, passwords=passwords, local=local)
        except ValueError as error:
            self._unusable("peers", NODE_PEER_IPS.key, str(error))
            return None
