"""Node and learned routes to BGP, kernel routes and plumbing. One compiler for each smallest thing that changes:

- `plumbing`, `cni`, `cloud`, `speaker`, `exports`, `advertise`, `external`: this node;
- `nodesets`, `peer`: each node of the cluster;
- `route`: each learned route, with the tunnel that it may need;
- `advertise-service`: each Service, of whose addresses peers outside the cluster may be told.
"""

from __future__ import annotations

from kuberouter.compilers.routing.advertise import compile_advertise, compile_advertise_service
from kuberouter.compilers.routing.cloud import compile_cloud
from kuberouter.compilers.routing.cni import compile_cni
from kuberouter.compilers.routing.exports import compile_exports
from kuberouter.compilers.routing.peers import compile_external, compile_peer
from kuberouter.compilers.routing.plumbing import compile_nodesets, compile_plumbing
from kuberouter.compilers.routing.routes import compile_route
from kuberouter.compilers.routing.speaker import compile_speaker

__all__ = [
    "COMPILERS",
    "OF_ANNOTATIONS",
    "compile_advertise",
    "compile_advertise_service",
    "compile_cloud",
    "compile_cni",
    "compile_exports",
    "compile_external",
    "compile_nodesets",
    "compile_peer",
    "compile_plumbing",
    "compile_route",
    "compile_speaker",
]

COMPILERS = (
    ("plumbing", compile_plumbing),
    ("nodesets", compile_nodesets),
    ("cni", compile_cni),
    ("cloud", compile_cloud),
    ("speaker", compile_speaker),
    ("exports", compile_exports),
    ("advertise", compile_advertise),
    ("external", compile_external),
    ("peer", compile_peer),
    ("route", compile_route),
    ("advertise-service", compile_advertise_service),
)
"""Names and functions in the order in which they should run."""
OF_ANNOTATIONS = ("speaker", "exports", "external", "peer")
"""Those that are decided by annotations of this node. While these cannot be read, and what they said before is not
known either, what gobgpd holds stays as it is."""
