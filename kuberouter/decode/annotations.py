"""Every annotation and label that we read: key, type, parser. The only place with the kube-router.io ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from kuberouter.decode.common import Trouble
from kuberouter.decode.scalars import prefix
from kuberouter.decode.schema import NamespacePolicy
from kuberouter.model.cluster import NodeOptions, ServiceOptions
from kuberouter.model.core import Prefix, Reason

T = TypeVar("T")

SCHEDULERS = frozenset(("rr", "lc", "dh", "sh", "mh"))
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
OUR_PROXY_NAME = "kube-router"
HEADLESS_LABEL = "service.kubernetes.io/headless"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


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
            trouble.add(f"metadata.annotations[{self.key}]", f"{error}; it is ignored", Reason.UNSUPPORTED)
            return self.default


def _scheduler(text: str) -> str:
    if text not in SCHEDULERS:
        raise ValueError(f"{text!r} is not a scheduler: one of {', '.join(sorted(SCHEDULERS))}")
    return text


def _prefixes(text: str) -> tuple[Prefix, ...]:
    return tuple(prefix(item.strip()) for item in text.split(",") if item.strip())


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
SERVICE_LOCAL = Annotation("kube-router.io/service.local", lambda text: text == "true", False)
NODE_POD_CIDRS: Annotation[tuple[Prefix, ...]] = Annotation("kube-router.io/pod-cidrs", _prefixes, ())
NODE_POD_CIDR: Annotation[tuple[Prefix, ...]] = Annotation("kube-router.io/pod-cidr", _prefixes, ())
NAMESPACE_POLICY = Annotation("net.beta.kubernetes.io/network-policy", _default_deny, False)


def service_options(annotations: dict[str, str] | None, trouble: Trouble) -> ServiceOptions:
    """The typed annotations of a Service."""
    return ServiceOptions(SERVICE_SCHEDULER.read(annotations, trouble), SERVICE_LOCAL.read(annotations, trouble))


def node_options(annotations: dict[str, str] | None, trouble: Trouble) -> NodeOptions:
    """The typed annotations of a Node; `pod-cidrs` wins over the older `pod-cidr`."""
    listed = NODE_POD_CIDRS.read(annotations, trouble)
    return NodeOptions(listed or NODE_POD_CIDR.read(annotations, trouble))
