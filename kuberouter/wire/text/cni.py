"""The CNI configuration file: put our fields in, keep everything else, read our fields back (CNI spec 1.0, host-local).

Pure text in, text out.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from kuberouter.model.core import Prefix

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
    """The configuration with these ranges in place of all others, one set each, and with this MTU unless it is 0.

    host-local gives a pod one address of every range set, so an old range must not stay. Raises ValueError.
    """
    document = _load(text)
    plugin = _bridge(document)
    ipam = plugin.get("ipam")
    if ipam is None:
        ipam = plugin["ipam"] = {"type": "host-local"}
    if not isinstance(ipam, dict):
        raise ValueError("ipam is no JSON object")
    ipam.pop("subnet", None)
    ipam["ranges"] = [[{"subnet": _show(block)}] for block in ranges]
    if mtu:
        plugin["mtu"] = mtu
    return json.dumps(document, indent=2) + "\n"


def _show(block: Prefix) -> str:
    return f"{ipaddress.ip_address(block.address)}/{block.length}"


def read(text: str) -> tuple[tuple[Prefix, ...], int]:
    """Ranges and MTU of a configuration; a legacy subnet makes it unequal to anything we ask for. Raises ValueError."""
    plugin = _bridge(_load(text))
    ipam = plugin.get("ipam")
    ranges: list[Prefix] = []
    if isinstance(ipam, dict):
        if "subnet" in ipam:
            ranges.append(Prefix(b"", 0))
        for entry in ipam.get("ranges") or []:
            if not (isinstance(entry, list) and len(entry) == 1 and isinstance(entry[0], dict)):
                raise ValueError("ipam.ranges is not understood")
            network = ipaddress.ip_network(str(entry[0].get("subnet")), strict=False)
            ranges.append(Prefix(network.network_address.packed, network.prefixlen))
    mtu = plugin.get("mtu")
    return tuple(ranges), mtu if isinstance(mtu, int) else 0
