"""What sources tell the engine. Every event is a frozen value."""

from __future__ import annotations

from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import ObjectRef, Problem, Row, Value


class Upserted(Value, frozen=True, gc=False):
    """An object exists and looks like this now."""

    obj: ClusterObject


class Deleted(Value, frozen=True, gc=False):
    """An object is gone."""

    ref: ObjectRef


class Rejected(Value, frozen=True, gc=False):
    """An object could not be decoded. What was last known and programmed for it stays.

    Also what a source itself finds wrong in the world; the `ref` is then its name for the matter.
    """

    ref: ObjectRef
    problems: tuple[Problem, ...]


class Accepted(Value, frozen=True, gc=False):
    """An object decoded without problems after all: earlier problems of decoding are withdrawn."""

    ref: ObjectRef


ANNOTATIONS = "annotations"
"""In sync once the annotations of this node about BGP can be read, or nothing is kept of what they once were."""


class Synced(Value, frozen=True, gc=False):
    """A source has delivered its first whole picture. Sent once per source, never before that."""

    source: str


class Drifted(Value, frozen=True, gc=False):
    """Somebody else changed rows of this table: read it again."""

    table: type[Row]


Event = Upserted | Deleted | Rejected | Accepted | Synced | Drifted
