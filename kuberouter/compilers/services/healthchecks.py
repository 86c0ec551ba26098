"""What a cloud's load balancer is told when it asks whether this node has endpoints of a Service."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.model.core import Fragment, Owner, Rank
from kuberouter.model.host import HealthPort, HealthPortKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings


def compile_health(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """The health check node port of a Service, with the number of its ready endpoints here.

    The count is that of the whole Service: a pod that serves several of its ports is one (KEP-1669 says which endpoints
    count: those that are ready and do not terminate).
    """
    del node, settings
    service = view.service(key.subject)
    if service is None or not service.proxied or not service.health_check_node_port:
        return Fragment()
    ref = service.ref
    count = view.local_endpoints.ready(ref)
    row = HealthPort(HealthPortKey(service.health_check_node_port), ref.namespace, ref.name, count)
    return Fragment((row,), rank=Rank(since=service.created))
