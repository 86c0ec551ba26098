"""The annotation by which namespaces were isolated before NetworkPolicy: says so where it has no effect."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.decode.annotations import NAMESPACE_POLICY
from kuberouter.model.core import Fragment, Owner, Problem, Reason
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import FirewallSettings


def compile_annotation(key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings) -> Fragment:
    """No rows: with the flag on the cluster holds a policy in the annotation's place, and that one is compiled."""
    del node
    namespace = view.namespace(key.subject)
    if namespace is None or not namespace.default_deny or settings.namespace_annotation:
        return Fragment()
    text = "has no effect: the pods of this namespace are not isolated; --netpol-namespace-annotation would do so"
    field = f"metadata.annotations[{NAMESPACE_POLICY.key}]"
    return Fragment(problems=(Problem(namespace.ref, field, Reason.IGNORED, text),))
