"""The CNI configuration file: put our fields in, keep everything else, read our fields back (CNI spec 1.0, host-local).

Pure text in, text out.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from kuberouter.model.core import Family, Prefix

Json = dict[str, Any]

TEMPLATE: Json = {
    "cniVersion": "0.3.1",
    "name": "kubernetes",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "kube-bridge",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local"},
        },
        {"type": "portmap", "capabilities": {"portMappings": True, "snat": True}},
    ],
}
"""What a missing file begins with. A file that is no list is the bridge plugin alone, with name and version."""


def recorded(text: str) -> dict[str, tuple[bytes, ...]]:
    """Links of the host with the addresses that were given to their pod, from what a runtime keeps of an attachment.

    Raises ValueError if it is no such record. libcni keeps the result (CNI spec 1.0, section 5) of the last plugin.
    """
    try:
        result = json.loads(text)["result"]
        addresses = [ipaddress.ip_interface(each["address"]).ip.packed for each in result.get("ips") or []]
        # The host's end, and with some plugins a bridge, are the links without a sandbox.
        return {link["name"]: tuple(addresses) for link in result.get("interfaces") or [] if not link.get("sandbox")}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no record of an attachment: {error!r}") from error


def template(as_list: bool) -> str:
    """The text of a new configuration: a list of plugins, or the bridge plugin alone."""
    if as_list:
        return json.dumps(TEMPLATE, indent=2)
    bridge: Json = {"cniVersion": TEMPLATE["cniVersion"], "name": TEMPLATE["name"], **TEMPLATE["plugins"][0]}
    return json.dumps(bridge, indent=2)


def _bridge(document: object) -> Json:
    """The bridge plugin of a configuration. Raises ValueError when there is none."""
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    plugins = document.get("plugins")
    if plugins is None:
        if not document.get("type"):
            raise ValueError("it has neither plugins nor a type")
        plugins = [document]
    if not isinstance(plugins, list):
        raise ValueError("plugins is no list")
    for plugin in plugins:
        if isinstance(plugin, dict) and plugin.get("type") == "bridge":
            return plugin
    raise ValueError("it has no plugin of type bridge")


def _load(text: str) -> Json:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    _bridge(document)
    assert isinstance(document, dict)
    return document


def merge(text: str, ranges: tuple[Prefix, ...], mtu: int) -> str:
    """The configuration with these ranges in place of all others, and with this MTU unless it is 0.

    host-local gives a pod one address of every range set, so there is one set per family and no old range in it. A
    range keeps what else the file says of it (gateway, first and last address). Raises ValueError.
    """
    document = _load(text)
    plugin = _bridge(document)
    ipam = plugin.get("ipam")
    if ipam is None:
        ipam = plugin["ipam"] = {"type": "host-local"}
    if not isinstance(ipam, dict):
        raise ValueError("ipam is no JSON object")
    there = _present(ipam)
    for key in _LEGACY if "subnet" in ipam else ():
        ipam.pop(key, None)
    sets: dict[Family, list[Json]] = {}
    for block in dict.fromkeys(ranges):
        entries = ({**entry, "subnet": str(block)} for entry in there.get(block, [{}]))
        sets.setdefault(block.family, []).extend(entries)
    ipam["ranges"] = list(sets.values())
    if mtu:
        plugin["mtu"] = mtu
    return json.dumps(document, indent=2) + "\n"


_LEGACY = ("subnet", "rangeStart", "rangeEnd", "gateway")
"""A range that host-local takes without a set around it."""


def _present(ipam: Json) -> dict[Prefix, list[Json]]:
    """What the file says of each subnet; what is not understood is left out."""
    sets = ipam.get("ranges")
    found = list(sets) if isinstance(sets, list) else []
    found.append([{key: ipam[key] for key in _LEGACY if key in ipam}])
    present: dict[Prefix, list[Json]] = {}
    for entries in found:
        here: dict[Prefix, list[Json]] = {}
        for entry in entries if isinstance(entries, list) else ():
            try:
                here.setdefault(_subnet(entry), []).append(entry)
            except ValueError:
                continue
        # Of a subnet in several sets the first: those of the others may overlap, which host-local refuses in one set.
        present = {**here, **present}
    return present


def _subnet(entry: object) -> Prefix:
    """The subnet of one range, whatever its spelling. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("ipam.ranges is not understood")
    network = ipaddress.ip_network(str(entry.get("subnet")), strict=False)
    return Prefix(network.network_address.packed, network.prefixlen)


FOREIGN = Prefix(b"", 0)
"""Stands among the ranges that were read for what is unequal to anything that we ask for."""


def read(text: str) -> tuple[tuple[Prefix, ...], int]:
    """Ranges and MTU of a configuration; `FOREIGN` for what would cost pods an address more. Raises ValueError."""
    plugin = _bridge(_load(text))
    ipam = plugin.get("ipam")
    ranges: list[Prefix] = []
    if isinstance(ipam, dict):
        if "subnet" in ipam:
            ranges.append(FOREIGN)
        sets = ipam.get("ranges") or []
        if not isinstance(sets, list) or not all(isinstance(entries, list) and entries for entries in sets):
            raise ValueError("ipam.ranges is no list of lists with ranges")
        seen: set[Family] = set()
        for entries in sets:
            blocks = dict.fromkeys(_subnet(entry) for entry in entries)
            families = {block.family for block in blocks}
            if len(families) != 1 or families & seen:
                ranges.append(FOREIGN)
            seen |= families
            ranges += blocks
    mtu = plugin.get("mtu")
    return tuple(ranges), mtu if isinstance(mtu, int) else 0
