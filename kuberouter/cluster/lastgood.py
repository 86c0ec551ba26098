"""An object of which a part cannot be used keeps the last good value of that part."""

from __future__ import annotations

from msgspec import structs

from kuberouter.model.bgp import NodeBgp
from kuberouter.model.cluster import ClusterObject, Node


def with_last_good(old: ClusterObject | None, new: ClusterObject) -> ClusterObject:
    """The new state of an object, its unusable parts as they were before.

    Those of which nothing good has been known are as absent, and stay marked.
    """
    if not isinstance(new, Node) or not new.options.bgp.unreadable:
        return new
    before = old.options.bgp if isinstance(old, Node) else NodeBgp(unreadable=new.options.bgp.unreadable)
    kept = {field: getattr(before, field) for field in new.options.bgp.unreadable}
    unknown = tuple(field for field in new.options.bgp.unreadable if field in before.unreadable)
    bgp = structs.replace(new.options.bgp, **kept, unreadable=unknown)
    return structs.replace(new, options=structs.replace(new.options, bgp=bgp))
