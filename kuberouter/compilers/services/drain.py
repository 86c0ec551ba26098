"""What an endpoint that went leaves behind: its destination without weight, until its connections have ended."""

from __future__ import annotations

from kuberouter.cluster.view import ClusterView
from kuberouter.model.core import Fragment, Owner, Rank
from kuberouter.model.ipvs import Destination
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings

BEHIND_ALL = Rank(level=1)
"""Whoever wants the destination to take connections comes first: an endpoint that returns drains no more."""


def compile_drain(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """The destination of one `Departed` object."""
    del node, settings
    departed = view.departed(key.subject)
    if departed is None:
        return Fragment()
    return Fragment((Destination(departed.key, 0, departed.forward),), rank=BEHIND_ALL)
