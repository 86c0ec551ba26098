"""Objects that follow from other objects: the rest of the daemon takes them for what the API told of."""

from __future__ import annotations

from collections.abc import Callable

from kuberouter.model.cluster import ClusterObject, Namespace, NetworkPolicy, Selector
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Deleted, Upserted

Derive = Callable[[ObjectRef, ClusterObject | None], Upserted | Deleted | None]
"""From an object's reference and its new state (None: gone) to the event about what follows from it; None: nothing.

Deleting what does not exist is no change, so nobody has to remember what was derived before.
"""

ANNOTATION_POLICY = "net.beta.kubernetes.io/network-policy"
"""Name of the policy that stands for the annotation; with its slash it is the name of no object of the API."""


def namespace_isolation(ref: ObjectRef, new: ClusterObject | None) -> Upserted | Deleted | None:
    """A namespace that isolates itself by annotation has a policy that denies ingress to all its pods.

    Policies only ever allow, so it adds to those that people wrote as any other default-deny policy would.
    """
    if ref.kind != "Namespace":
        return None
    policy = ObjectRef("NetworkPolicy", ref.name, ANNOTATION_POLICY)
    if isinstance(new, Namespace) and new.default_deny:
        return Upserted(NetworkPolicy(policy, 0.0, Selector(), ingress=()))
    return Deleted(policy)
