"""Examples on pages of the documentation."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
_EXAMPLE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def objects(page: str, kind: str) -> list[bytes]:
    """The objects of a kind that a page shows as YAML, as the API would send them."""
    found = (yaml.safe_load(text) for text in _EXAMPLE.findall((DOCS / page).read_text()))
    return [json.dumps(each).encode() for each in found if each.get("kind") == kind]


def commands(page: str, what: str) -> str:
    """The shell commands of a page that begin with this comment, without the indent of a list."""
    (found,) = re.findall(rf"^ *```sh\n( *# {re.escape(what)}\n.*?)^ *```$", (DOCS / page).read_text(), re.M | re.S)
    return textwrap.dedent(found)


def block(page: str, language: str) -> str:
    """The only block of a language that a page shows."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return str(found)
