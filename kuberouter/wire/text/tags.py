"""What the first rule of a chain of ours says in its comment of all its rules: a tag over their texts, their number.

A chain whose name is made from its rules has no comment: what can be wrong with it shows in their number.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kuberouter.model.netfilter import OTHERWISE, chain_tag, count_tag

MARKER = "kube-router:"
"""Begins the comments of ours."""
_CLAIM = re.compile(rf"{MARKER}([0-9a-f]{{10}}):(\d+)")


class SavedChain(NamedTuple):
    """A chain as it was read: the tag that its first rule claims, if it has as many rules as that says, else of these.

    `look` is a number that changes when somebody replaces a rule, 0 if that was not read. It says nothing beyond this
    process.
    """

    tag: bytes
    look: int = 0


def claim(tag: bytes, count: int) -> str:
    """The comment of the first of so many rules, empty if it is to have none."""
    return "" if tag == count_tag(count) else f"{MARKER}{tag.hex()}:{count}"


def claimed(comment: str, count: int) -> bytes:
    """The tag of a chain with so many rules, of which the first has this comment."""
    if not count:
        return chain_tag(())
    found = _CLAIM.fullmatch(comment)
    return bytes.fromhex(found[1]) if found is not None and int(found[2]) == count else OTHERWISE


def counted(comment: str, count: int) -> bytes:
    """The same where chains may be without a comment, for their name says the rest."""
    return claimed(comment, count) if comment or not count else count_tag(count)
