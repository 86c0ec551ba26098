"""Receivers of direct server return: what is ours inside of pods."""

from __future__ import annotations

from kuberouter.model.core import KeyValue, Value


class PodReceiverKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """An address of a pod of this node, and a service address of the same family that the pod answers for directly."""

    pod: bytes
    vip: bytes


class PodReceiver(Value, frozen=True, gc=False):
    """In the pod's network namespace: the end of a tunnel, and a service address on it.

    `container` is one of the pod's running ones, by the id that the container runtime gave it: the way in.
    """

    key: PodReceiverKey
    container: str
