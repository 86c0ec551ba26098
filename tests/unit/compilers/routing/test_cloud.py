"""Whose source check the cloud is asked to leave off: that of this node's own instance, and of nothing else."""

from __future__ import annotations

import pytest

from kuberouter.cluster.dependents import routing
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.routing import compile_cloud
from kuberouter.decode.node import decode_node
from kuberouter.model.cluster import Node
from kuberouter.model.core import Fragment, ObjectRef, Owner, Reason
from kuberouter.model.events import Upserted
from kuberouter.model.host import NoSourceCheck, SourceCheckKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import NodeSettings, RouterSettings

ME = ObjectRef("Node", "", "me")
OTHER = Node(ObjectRef("Node", "", "other"), provider_id="aws:///eu-central-1b/i-0bbb")


def compiled(provider: str, settings: RouterSettings | None = None) -> Fragment:
    cluster = Cluster(NodeSettings("me"))
    for each in (Node(ME, provider_id=provider), OTHER):
        cluster.apply(Upserted(each))
    facts = NodeFacts("me", (b"\xc0\0\x02\1",))
    return compile_cloud(Owner("cloud", ME), cluster, node=facts, settings=settings or RouterSettings())


@pytest.mark.parametrize(
    ("provider", "region", "instance"),
    [
        ("aws:///eu-central-1a/i-0123456789abcdef0", "eu-central-1", "i-0123456789abcdef0"),
        ("aws:///us-west-2-lax-1a/i-0aaa", "us-west-2", "i-0aaa"),
        ("aws:///us-gov-west-1a/i-0aaa", "us-gov-west-1", "i-0aaa"),
        ("aws://ap-southeast-2c/i-0aaa", "ap-southeast-2", "i-0aaa"),
    ],
)
def test_the_instance_is_that_of_the_node(provider: str, region: str, instance: str) -> None:
    assert compiled(provider) == Fragment((NoSourceCheck(SourceCheckKey(region, instance)),))
    assert compiled(provider, RouterSettings(disable_source_check=False)) == Fragment()


@pytest.mark.parametrize("provider", ["", "gce://project/europe-west1-b/node", "kind://docker/kind/node", "azure:///x"])
def test_elsewhere_nobody_is_asked(provider: str) -> None:
    assert compiled(provider) == Fragment()


@pytest.mark.parametrize("provider", ["aws:///eu-central-1a/fargate-10.0.0.1", "aws:///somewhere/i-0aaa", "aws:"])
def test_what_is_no_instance_is_told_on_the_node(provider: str) -> None:
    (problem,) = compiled(provider).problems
    assert (problem.owner, problem.field, problem.reason) == (ME, "spec.providerID", Reason.UNSUPPORTED)
    assert not compiled(provider).rows


def test_it_is_read_from_the_node_and_may_come_late() -> None:
    """The cloud's controller writes it some time after the kubelet has made the Node."""
    raw = b'{"metadata": {"name": "me"}, "spec": {"providerID": "aws:///eu-central-1a/i-0aaa"}}'
    node, problems = decode_node(raw)
    assert (node, problems) == (Node(ME, provider_id="aws:///eu-central-1a/i-0aaa"), ())
    assert node is not None
    cluster = Cluster(NodeSettings("me"), [routing])
    status = Node(ME, internal_addresses=(b"\xc0\0\x02\1",))
    cluster.apply(Upserted(status))
    dirty = cluster.apply(Upserted(Node(ME, status.internal_addresses, provider_id=node.provider_id)))
    assert ("cloud", (ME,)) in [(name, tuple(keys)) for name, keys in dirty]
