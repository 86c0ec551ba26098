"""The language of nft(8), as far as chains need it, and what libnftables says of a script that fails.

The kernel keeps rules in a form of its own, so texts are never compared: the first rule of a chain carries in its
comment a tag over the texts of all that were meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kuberouter.model.netfilter import CountedRule
from kuberouter.model.nftables import TABLE_NAME, BaseHook, NftChain, NftChainKey, NftFamily
from kuberouter.wire.text.tags import MARKER, claim

_FAMILY = {NftFamily.IPV4: "ip", NftFamily.BRIDGE: "bridge", NftFamily.IPV6: "ip6"}
_TARGET = re.compile(r"(?:^| )(?:jump|goto) (\S+)", re.MULTILINE)
_CHAIN = re.compile(r"\s+chain (\S+) \{")
_COUNTER = re.compile(r"counter packets (\d+) bytes (\d+) ?")
_OURS = re.compile(rf' ?comment "{MARKER}[0-9a-f:]+"$')
LOOP = "Too many links"
"""What the kernel says of chains that lead to each other in a circle, or too deep."""
_ERROR = re.compile(r"^[^\s:]+:(\d+):\d+-\d+: Error: (.*)$", re.MULTILINE)


def where(family: NftFamily, name: str) -> str:
    """A chain or set in our table of a family."""
    return f"{_FAMILY[family]} {TABLE_NAME[family]} {name}"


def parse_listing(output: str) -> dict[str, list[CountedRule]]:
    """What `nft list table` printed: the rules of each chain in order, zero for those that do not count."""
    chains: dict[str, list[CountedRule]] = {}
    rules: list[CountedRule] | None = None
    for line in output.splitlines():
        if (begun := _CHAIN.match(line)) is not None:
            rules = chains.setdefault(begun[1], [])
        elif line.strip() == "}":
            rules = None
        elif rules is not None:
            found = _COUNTER.search(line)
            packets, size = (int(found[1]), int(found[2])) if found is not None else (0, 0)
            rules.append(CountedRule(_OURS.sub("", _COUNTER.sub("", line.strip(), count=1)), packets, size))
    return chains


class Script:
    """One transaction, in which each line remembers what it is for."""

    def __init__(self, family: NftFamily) -> None:
        # What the kernel refuses as a whole libnftables blames on the first line, which therefore is nobody's.
        self._first: list[tuple[str, object]] = [(f"add table {where(family, '').rstrip()}", None)]
        self._chains: list[tuple[str, object]] = []
        self._rules: list[tuple[str, object]] = []
        self._texts: dict[str, str] = {}

    def drop_chain(self, key: NftChainKey) -> None:
        """Take a chain away before anything else: its hook cannot be changed in place."""
        # Made first, so that its deletion holds even if somebody else was faster.
        for verb in ("add", "flush", "delete"):
            self._first.append((f"{verb} chain {where(key.family, key.name)}", key))

    def chain(self, row: NftChain) -> None:
        """Make a chain hold exactly its rules, whether it exists or not."""
        chain = where(row.key.family, row.key.name)
        self._chains.append((f"add chain {chain}{_hook(row.hook)}", row.key))
        self._chains.append((f"flush chain {chain}", row.key))
        first = f' comment "{claim(row.tag, len(row.rules))}"'
        for at, text in enumerate(row.rules):
            line = f"add rule {chain} {text}{'' if at else first}"
            self._rules.append((line, row.key))
            self._texts[line] = text

    def _all(self) -> list[tuple[str, object]]:
        # Rules may refer to any chain of the script, so all chains are made first.
        return [*self._first, *self._chains, *self._rules]

    def __str__(self) -> str:
        return "\n".join((*(line for line, _ in self._all()), ""))

    def faults(self, errors: str) -> list[tuple[object, str]]:
        """The lines that an error output complains of, in order; none if it does not tell.

        Of each the subject, and the text of the rule, which is empty for a line that is none.
        """
        lines = self._all()
        found: list[tuple[object, str]] = []
        for number, text in _ERROR.findall(errors):
            if 0 < int(number) <= len(lines):
                line, subject = lines[int(number) - 1]
                found.append((subject, self._texts.get(line, "")))
            if LOOP in text:
                # The kernel checks for it with every rule from then on, so the rules behind are not to blame.
                break
        return [(subject, text) for subject, text in found if subject is not None]


def _hook(hook: BaseHook | None) -> str:
    if hook is None:
        return ""
    return f" {{ type filter hook {hook.hook} priority {hook.priority}; policy accept; }}"


def complaint(errors: str) -> str:
    """The first telling line of an error output."""
    found = _ERROR.search(errors)
    if found is not None:
        return found[2]
    for line in errors.splitlines():
        if line.strip():
            return line.strip().removeprefix("Error: ")
    return "refused without a reason"


def jumps(rules: Sequence[str]) -> list[str]:
    """The chains that rules lead to: the word after jump or goto."""
    # Most rules lead nowhere, which is told in a fraction of the time in which they are searched.
    return _TARGET.findall("\n".join([rule for rule in rules if "jump " in rule or "goto " in rule]))
