"""Examples on pages of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
_EXAMPLE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def objects(page: str, kind: str) -> list[bytes]:
    """The objects of a kind that a page shows as YAML, as the API would send them."""
    found = (yaml.safe_load(text) for text in _EXAMPLE.findall((DOCS / page).read_text()))
    return [json.dumps(each).encode() for each in found if each.get("kind") == kind]
