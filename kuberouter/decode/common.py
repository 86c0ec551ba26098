"""What all decoders share: from bytes to struct with a Problem for a wrong type, references, labels, selectors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from sys import intern
from typing import Any, TypeVar

import msgspec

from kuberouter.decode.scalars import timestamp
from kuberouter.decode.schema import Identity, Json, Metadata, Named, RawExpression, RawList, RawSelector
from kuberouter.model.cluster import Labels, Operator, Requirement, Selector
from kuberouter.model.core import ObjectRef, Problem, Reason

T = TypeVar("T")
V = TypeVar("V")
S = TypeVar("S", bound=Json)
H = TypeVar("H", bound=Hashable)
Bytes = bytes | msgspec.Raw

_NAMED = msgspec.json.Decoder(Named)
_LIST = msgspec.json.Decoder(RawList)
_SHARED: dict[Any, Any] = {}
_SHARED_MOST = 100_000


class Trouble:
    """Collects the problems of one object."""

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref
        self.problems: list[Problem] = []

    def add(self, field: str, message: str, reason: Reason = Reason.MALFORMED) -> None:
        """Note a problem of a field, named by its dotted path."""
        self.problems.append(Problem(self.ref, field, reason, message))

    def value(self, field: str, parse: Callable[[T], V], raw: T) -> V | None:
        """What `parse` makes of a field, or None and a problem."""
        try:
            return parse(raw)
        except ValueError as error:
            self.add(field, str(error))
            return None

    def values(self, field: str, parse: Callable[[T], V], raws: list[T] | None) -> tuple[V, ...]:
        """What `parse` makes of each item of a list; bad items are left out, each with a problem."""
        try:
            return tuple([parse(raw) for raw in raws or ()])
        except ValueError:
            # Which ones are bad is asked only now, for almost never is any.
            pass
        found: list[V] = []
        for index, raw in enumerate(raws or ()):
            value = self.value(f"{field}[{index}]", parse, raw)
            if value is not None:
                found.append(value)
        return tuple(found)


def struct(decoder: msgspec.json.Decoder[S], raw: Bytes, kind: str) -> tuple[S | None, tuple[Problem, ...]]:
    """Decode one object; a wrong type or broken JSON becomes one problem that names object and field."""
    try:
        return decoder.decode(raw), ()
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".")
        return None, (Problem(identify(raw, kind), field, Reason.MALFORMED, message or type(error).__name__),)


def identify(raw: Bytes, kind: str) -> ObjectRef:
    """Which object these bytes are, as far as they tell: the name is `?` where even that is missing."""
    try:
        metadata = _NAMED.decode(raw).metadata
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
        return ObjectRef(kind, "", "?")
    return ObjectRef(kind, metadata.namespace or "", metadata.name or "?")


def resource_version(raw: Bytes) -> str:
    """`metadata.resourceVersion` of an object; empty when there is none."""
    try:
        return _NAMED.decode(raw).metadata.resource_version
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
        return ""


def decode_list(raw: Bytes) -> tuple[str, str, list[msgspec.Raw]]:
    """One page of a list: resourceVersion, continue token, items. Raises msgspec.DecodeError when it is no list."""
    page = _LIST.decode(raw)
    return page.metadata.resource_version, page.metadata.continue_, page.items or []


def reference(kind: str, metadata: Metadata | Identity) -> ObjectRef:
    """The reference of an object."""
    return ObjectRef(kind, intern(metadata.namespace or ""), metadata.name)


def created(metadata: Metadata, trouble: Trouble) -> float:
    """creationTimestamp in seconds since the epoch; 0 when absent."""
    if metadata.creation_timestamp is None:
        return 0.0
    return trouble.value("metadata.creationTimestamp", timestamp, metadata.creation_timestamp) or 0.0


def labels(raw: dict[str, str] | None) -> Labels:
    """Labels sorted by key."""
    return shared(tuple(sorted(raw.items()))) if raw else ()


def shared(value: H) -> H:
    """The first value that was equal to this one, for most pods of a cluster look alike: it is kept once for all."""
    known = _SHARED.get(value)
    if known is None:
        if len(_SHARED) >= _SHARED_MOST:
            _SHARED.clear()
        known = _SHARED[value] = value
    return known


def selector(raw: RawSelector) -> Selector:
    """A selector. Raises ValueError."""
    found = {labelled(key, value) for key, value in (raw.match_labels or {}).items()}
    found.update(map(expressed, raw.match_expressions or ()))
    return normal(found)


def normal(requirements: Iterable[Requirement]) -> Selector:
    """Requirements as a selector in normal form: sorted, each once."""
    found = set(requirements)
    # Most selectors have one requirement, and some none.
    ordered = sorted(found, key=lambda r: (r.key, r.operator.value, r.values)) if len(found) > 1 else found
    return shared(Selector(tuple(ordered)))


def labelled(key: str, value: str | None) -> Requirement:
    """What an item of matchLabels requires; null is the empty text, as for the apiserver."""
    return Requirement(key, Operator.IN, (value or "",))


def expressed(expression: RawExpression) -> Requirement:
    """What an item of matchExpressions requires, its values sorted and unique. Raises ValueError."""
    try:
        operator = Operator(expression.operator)
    except ValueError:
        raise ValueError(f"operator {expression.operator!r} of key {expression.key!r} is not known") from None
    values = tuple(sorted(set(expression.values or ())))
    needs_values = operator in (Operator.IN, Operator.NOT_IN)
    if needs_values and not values:
        raise ValueError(f"operator {operator.value} of key {expression.key!r} needs values")
    if not needs_values and values:
        raise ValueError(f"operator {operator.value} of key {expression.key!r} takes no values")
    return Requirement(expression.key, operator, values)
