"""Pod bytes to `LocalPod` (core/v1): not what policy asks of a pod, but where its containers are."""

from __future__ import annotations

from sys import intern

import msgspec

from kuberouter.decode.common import Bytes, Trouble, reference, struct
from kuberouter.decode.scalars import address
from kuberouter.decode.schema import LocalPodStatus, RawLocalPod
from kuberouter.model.cluster import LocalPod
from kuberouter.model.core import ObjectRef, Problem

LOCAL_PODS = "localpods"
"""The source of this node's pods as their container runtime knows them."""
_DECODER = msgspec.json.Decoder(RawLocalPod)


def decode_local_pod(raw: Bytes) -> tuple[LocalPod | None, tuple[Problem, ...]]:
    """A LocalPod, or None and problems. Never raises."""
    found, problems = struct(_DECODER, raw, "Pod")
    if found is None:
        return None, problems
    named = reference("Pod", found.metadata)
    trouble = Trouble(named)
    status = found.status or LocalPodStatus()
    texts = [entry.ip for entry in status.pod_ips or () if entry.ip] or ([status.pod_ip] if status.pod_ip else [])
    pod = LocalPod(
        ObjectRef("LocalPod", named.namespace, named.name),
        intern(found.spec.node_name),
        trouble.values("status.podIPs", address, texts),
        min(_running(status), default=""),
        found.spec.host_network,
    )
    return pod, tuple(trouble.problems)


def _running(status: LocalPodStatus) -> list[str]:
    """The ids of the containers that run; the API puts the runtime's name before each: `containerd://...`."""
    lists = (status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses)
    return [
        each.container_id.rpartition("://")[2]
        for statuses in lists
        for each in statuses or ()
        if each.container_id and each.state is not None and each.state.running is not None
    ]
