"""From flags and the environment to the settings of the allocator of load balancer addresses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kuberouter.cluster.balancing import merged, span_of, without
from kuberouter.daemon.configreader import Reader
from kuberouter.decode.scalars import prefix
from kuberouter.model.balancer import AddressPool, BalancerSettings
from kuberouter.model.core import Prefix
from kuberouter.wire.kubeapi import SERVICE_ACCOUNT


def read_balancer(
    reader: Reader, environment: Mapping[str, str], ranges: tuple[Prefix, ...], *, account: Path = SERVICE_ACCOUNT
) -> BalancerSettings | None:
    """The settings, None if it does not run; mistakes in pools are told all the same."""
    pools = [reader.checked("loadbalancer-pool", _pool, text) for text in reader.flag("loadbalancer-pool", tuple)]
    known = tuple(pool for pool in pools if pool is not None)
    _check(reader, known, ranges)
    if not reader.flag("run-loadbalancer", bool):
        return None
    if not reader.flag("loadbalancer-ip-range", tuple):
        reader.wrong("run-loadbalancer", "--loadbalancer-ip-range does not say which addresses there are to give")
    if reader.flag("manifests", str):
        reader.wrong("run-loadbalancer", "needs an apiserver, and --manifests does without one")
    namespace = environment.get("POD_NAMESPACE", "") or _text(account / "namespace")
    if not namespace:
        reader.wrong("run-loadbalancer", f"POD_NAMESPACE is not set, and there is no {account / 'namespace'}")
    identity = environment.get("POD_NAME", "")
    if not identity:
        reader.wrong("run-loadbalancer", "POD_NAME is not set; it says who leads")
    return BalancerSettings(
        ranges,
        known,
        reader.flag("loadbalancer-default-class", bool),
        reader.flag("loadbalancer-edge-addresses", bool),
        reader.flag("loadbalancer-sync-period", float),
        namespace,
        identity,
    )


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _pool(text: str) -> AddressPool:
    """A pool as `name=CIDR,...[;namespaces=NAME,...][;selector=LABEL=VALUE,...]`. Raises ValueError."""
    head, *rest = (part.strip() for part in text.split(";"))
    name, _, blocks = head.partition("=")
    if not name or not blocks:
        raise ValueError(f"{text!r} does not begin with a name and blocks, as name=192.0.2.0/28")
    namespaces: tuple[str, ...] = ()
    labels: list[tuple[str, str]] = []
    for part in filter(None, rest):
        word, _, value = part.partition("=")
        items = [item.strip() for item in value.split(",") if item.strip()]
        if word == "namespaces" and items:
            namespaces = tuple(items)
        elif word == "selector" and items:
            for item in items:
                key, equals, wanted = item.partition("=")
                if not (key and equals):
                    raise ValueError(f"{item!r} is not a label and its value, as tier=web")
                labels.append((key, wanted))
        else:
            raise ValueError(f"{part!r} is neither namespaces=NAME,... nor selector=LABEL=VALUE,...")
    if not namespaces and not labels:
        raise ValueError(f"pool {name!r} is for all Services: it needs namespaces= or selector=")
    found = tuple(prefix(item.strip()) for item in blocks.split(",") if item.strip())
    return AddressPool(name, found, namespaces, tuple(sorted(labels)))


def _check(reader: Reader, pools: tuple[AddressPool, ...], ranges: tuple[Prefix, ...]) -> None:
    """Pools are parts of the ranges, for nothing else is served, and have nothing in common."""
    names = [pool.name for pool in pools]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        reader.wrong("loadbalancer-pool", f"{name!r} is given twice")
    seen: list[tuple[str, Prefix]] = []
    for pool in pools:
        for block in pool.blocks:
            inside = merged(span_of(each) for each in ranges if each.family is block.family)
            if without([span_of(block)], inside):
                reader.wrong("loadbalancer-pool", f"{pool.name}: {block} is not in --loadbalancer-ip-range")
            for name, other in seen:
                if other.covers(block.address) or block.covers(other.address):
                    reader.wrong("loadbalancer-pool", f"{pool.name}: {block} and {other} of {name} overlap")
            seen.append((pool.name, block))
