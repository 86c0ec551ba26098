"""Floor 2: raw bytes to model values or Problems; the only place where input is validated."""

from __future__ import annotations

from collections.abc import Callable

from kuberouter.decode.common import Bytes
from kuberouter.decode.endpointslice import decode_endpointslice
from kuberouter.decode.localpod import decode_local_pod
from kuberouter.decode.networkpolicy import decode_networkpolicy
from kuberouter.decode.node import decode_namespace, decode_node, decode_pod
from kuberouter.decode.service import decode_service
from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import Problem

Decode = Callable[[Bytes], tuple[ClusterObject | None, tuple[Problem, ...]]]

DECODERS: dict[str, Decode] = {
    "Service": decode_service,
    "EndpointSlice": decode_endpointslice,
    "Pod": decode_pod,
    "Namespace": decode_namespace,
    "NetworkPolicy": decode_networkpolicy,
    "Node": decode_node,
    "LocalPod": decode_local_pod,
}
"""The decoder of each kind of object that is watched. A LocalPod is another reading of a Pod."""
