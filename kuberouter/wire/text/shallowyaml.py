"""YAML from files that people write: quick, and no nesting in it takes the process along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

DEEPEST = 200
"""Levels of nesting in a document. libyaml's loader recurses on the C stack, which ends without an exception."""


class _ShallowLoader(_Loader):
    """Refuses what is nested too deeply. These two are called on the way into and out of every node, in C too."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} levels deep")
        super().descend_resolver(current_node, current_index)

    def ascend_resolver(self) -> None:
        self._depth -= 1
        super().ascend_resolver()


def load_all(text: str) -> Iterator[object]:
    """Each document in turn. Raises yaml.YAMLError, or ValueError for a date that there is not."""
    return iter(yaml.load_all(text, Loader=_ShallowLoader))


def load(text: str) -> object:
    """The only document; otherwise as `load_all`."""
    loaded: object = yaml.load(text, Loader=_ShallowLoader)
    return loaded


def compose(text: str) -> yaml.Node | None:
    """The only document as nodes, which know their lines; None if there is nothing in it. Raises as `load` does."""
    composed: yaml.Node | None = yaml.compose(text, Loader=_ShallowLoader)
    return composed


def explain(error: yaml.YAMLError) -> str:
    """What is wrong and where, without what stands there: that may be a secret."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"is no YAML: {' '.join(str(error).split())}"
    # The whole message would show the line; what is no alias or tag is a word of it as well.
    mark, safe = error.problem_mark, isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"is no YAML: {error.problem if safe else type(error).__name__}{where}"
