"""The file of `--config`: flags by name, in YAML. What the command line gives counts before it, it before defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kuberouter.daemon.commandline import Parsed
from kuberouter.daemon.flags import BOOL, FLAGS, UINTS, Flag, Value

if TYPE_CHECKING:
    import yaml

LARGEST = 1 << 20
"""Bytes; what is larger is no configuration."""
COMMAND_LINE_ONLY = frozenset(("cleanup-config", "cleanup-level", "config", "dry-run", "help", "version"))
"""They say what this run of the program is to do, not how."""
NULL = "tag:yaml.org,2002:null"


def merge(parsed: Parsed, table: Sequence[Flag] = FLAGS) -> tuple[Parsed, list[str]]:
    """A command line together with the file that it names, if any, and all mistakes in that.

    Each mistake names file, line and flag; what is given to a secret one is not shown.
    """
    path = str(parsed.values["config"])
    if not path:
        return parsed, []
    found, errors = read(Path(path), table)
    added = {name: value for name, value in found.items() if name not in parsed.given}
    merged = Parsed({**parsed.values, **added}, parsed.given | added.keys(), parsed.positionals)
    return merged, [f"--config: {path}{error}" for error in errors]


def read(path: Path, table: Sequence[Flag] = FLAGS) -> tuple[dict[str, Value], list[str]]:
    """What a file gives, and its mistakes, each of which begins with its place in the file."""
    # Only who has such a file pays for a reader of YAML.
    import yaml

    from kuberouter.wire.text.shallowyaml import compose, explain

    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            return {}, [f": is larger than {LARGEST} bytes"]
        root = compose(raw.decode("utf-8-sig"))
    except OSError as error:
        return {}, [f": {error.strerror}"]
    except UnicodeDecodeError:
        return {}, [": is no text in UTF-8"]
    except yaml.YAMLError as error:
        return {}, [f": {explain(error)}"]
    if root is None or root.tag == NULL:
        return {}, []
    if not isinstance(root, yaml.MappingNode):
        return {}, [f"{_place(root)}: is no map from names of flags to values"]
    return _Reader(table).entries(root.value)


def _place(node: yaml.Node) -> str:
    return f", line {node.start_mark.line + 1}"


class _Reader:
    """Reads the entries of the file's map and gathers what is wrong with them."""

    def __init__(self, table: Sequence[Flag]) -> None:
        self._flags = {flag.name: flag for flag in table}

    def entries(self, pairs: Sequence[tuple[yaml.Node, yaml.Node]]) -> tuple[dict[str, Value], list[str]]:
        """Values by flag, and mistakes."""
        found: dict[str, Value] = {}
        errors: list[str] = []
        for key, node in pairs:
            # What is no text has no name of a flag in it.
            name = str(key.value) if isinstance(key.value, str) else "?"
            try:
                flag = self._known(name)
                if name in found:
                    raise ValueError("is there twice")
                found[name] = self._value(flag, node)
            except ValueError as error:
                errors.append(f"{_place(key)}: {name}: {error}")
        return found, errors

    def _known(self, name: str) -> Flag:
        flag = self._flags.get(name)
        if flag is None:
            raise ValueError("there is no such flag")
        if name in COMMAND_LINE_ONLY:
            raise ValueError("can only be given on the command line")
        return flag

    def _value(self, flag: Flag, node: yaml.Node) -> Value:
        if isinstance(node.value, str):
            return self._scalar(flag, node)
        texts = [each.value for each in node.value if not isinstance(each, tuple)]
        if not flag.kind.many or len(texts) < len(node.value) or not all(isinstance(text, str) for text in texts):
            raise ValueError("takes a list of plain values" if flag.kind.many else "takes one plain value")
        if flag.kind is not UINTS:
            return tuple(str(text).strip() for text in texts)
        return tuple(number for text in texts for number in _numbers(flag, str(text)))

    def _scalar(self, flag: Flag, node: yaml.Node) -> Value:
        if node.tag == NULL:
            raise ValueError("has no value; an empty text is written as ''")
        try:
            return flag.kind.parse(node.value)
        except ValueError as error:
            hint = "; true or false is wanted" if flag.kind is BOOL else ""
            raise ValueError("cannot be read" if flag.secret else f"{error}{hint}") from None


def _numbers(flag: Flag, text: str) -> tuple[int, ...]:
    parsed = flag.kind.parse(text)
    return tuple(item for item in parsed if isinstance(item, int)) if isinstance(parsed, tuple) else ()


def changes(before: Parsed, after: Parsed) -> list[str]:
    """Names of the flags whose value is another one."""
    return sorted(name for name, value in after.values.items() if value != before.values[name])
