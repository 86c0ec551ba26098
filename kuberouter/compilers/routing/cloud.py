"""What the cloud has to let pass: packets of pods carry addresses that it never gave to the node."""

from __future__ import annotations

import re

from kuberouter.cluster.view import ClusterView
from kuberouter.model.core import Fragment, Owner, Problem, Reason
from kuberouter.model.host import NoSourceCheck, SourceCheckKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

AWS = "aws:"
INSTANCE = re.compile(r"aws:///?(?P<region>[a-z]{2}(?:-[a-z]+)+-[0-9]+)[a-z0-9-]*/(?P<instance>i-[0-9a-f]+)")
"""As the cloud's controller writes it: availability zone, which begins with its region, and instance.

Vectors: `aws:///eu-central-1a/i-0abc` is in eu-central-1, `aws:///us-west-2-lax-1a/i-0abc` in us-west-2.
"""


def compile_cloud(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """This node's own instance, if it is one of EC2; nobody else's, for every node looks after itself."""
    own = view.node_object(node.name)
    if not settings.disable_source_check or own is None or not own.provider_id.startswith(AWS):
        return Fragment()
    found = INSTANCE.fullmatch(own.provider_id)
    if found is None:
        text = f"{own.provider_id!r} names no instance of EC2 as aws:///ZONE/INSTANCE; its source check stays as it is"
        return Fragment(problems=(Problem(key.subject, "spec.providerID", Reason.UNSUPPORTED, text),))
    return Fragment((NoSourceCheck(SourceCheckKey(found["region"], found["instance"])),))
