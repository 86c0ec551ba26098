"""Services to IPVS. A compiler each for the smallest thing that changes:

- `services`: a Service's addresses and ports: virtual services, service addresses, guard set members;
- `destinations`: the endpoints of one slice of a Service;
- `drain`: a destination that has departed and keeps its connections;
- `health`: the health check node port of a Service;
- `receivers`: where a pod of this node answers clients directly;
- `direct`: what kernel settings go back to without direct return;
- `podsubnets`: the pods of one node of the cluster, as clients;
- `bridge-port`: the link to a pod that may have to reach itself;
- `proxy`: the node's part: dummy link, sets, guard chain, SNAT, kernel settings.
"""

from __future__ import annotations

from kuberouter.compilers.services.drain import compile_drain
from kuberouter.compilers.services.dsr import compile_direct
from kuberouter.compilers.services.frontends import compile_service
from kuberouter.compilers.services.healthchecks import compile_health
from kuberouter.compilers.services.inside import compile_pod_subnets
from kuberouter.compilers.services.ipvs import compile_destinations
from kuberouter.compilers.services.nat import compile_bridge_port
from kuberouter.compilers.services.node import compile_proxy
from kuberouter.compilers.services.receivers import compile_receivers

__all__ = [
    "COMPILERS",
    "compile_bridge_port",
    "compile_destinations",
    "compile_drain",
    "compile_health",
    "compile_pod_subnets",
    "compile_proxy",
    "compile_service",
]

COMPILERS = (
    ("proxy", compile_proxy),
    ("podsubnets", compile_pod_subnets),
    ("services", compile_service),
    ("destinations", compile_destinations),
    ("drain", compile_drain),
    ("health", compile_health),
    ("receivers", compile_receivers),
    ("direct", compile_direct),
    ("bridge-port", compile_bridge_port),
)
"""Names and functions in the order in which they should run."""
