"""The language of iptables-save and iptables-restore, and the tags by which our rules are found again in it.

The kernel reports rules in its own spelling, so texts are never compared: each rule of ours carries in its comment a
tag over the text that was meant. Grammar: iptables-restore(8).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from kuberouter.model.core import Value
from kuberouter.model.netfilter import CountedRule, rule_tag, rule_tags, split_tags

MARKER = "kube-router:"
"""Begins the comment of every rule of ours."""

INCOMPATIBLE = "is incompatible, use 'nft' tool"
"""What the nft tools say of a table in which there are rules that they have no words for."""
_COMMENT = re.compile(r'-m comment --comment "?kube-router:([0-9a-f]{10})(?::(first|last):(\d+))?"? ?')
_COUNTED = re.compile(r"\[(\d+):(\d+)\] -A (\S+) (.*)")
_TAG = re.compile(r"kube-router:([0-9a-f]{10})(?::(first|last):(\d+))?")
_LINE = re.compile(r"\bline:? (\d+)", re.IGNORECASE)
_TARGET = re.compile(r"(?:^| )-[jg] (\S+)", re.MULTILINE)
_LACKED = re.compile(r"^Warning: Extension (\S+) revision \d+ not supported", re.MULTILINE)
_NAME = re.compile(r"'([^']+)'")


class SavedRule(Value, frozen=True, gc=False):
    """A rule as a tool printed it: its words without `-A CHAIN`, and our tag, place and rank where it has them.

    Of a rule that no tool printed the words are empty.
    """

    words: str
    tag: str = ""
    place: str = ""
    rank: int = 0

    @property
    def text(self) -> str:
        """The words without our comment."""
        return _plain(self.words)


def parse_counters(output: str) -> dict[str, list[CountedRule]]:
    """What `iptables-save -c -t TABLE` printed: the rules of each chain in order."""
    chains: dict[str, list[CountedRule]] = {}
    for line in output.splitlines():
        if (found := _COUNTED.match(line)) is not None:
            packets, size, chain, words = found.groups()
            chains.setdefault(chain, []).append(CountedRule(_plain(words), int(packets), int(size)))
    return chains


def _plain(words: str) -> str:
    return _COMMENT.sub("", words, count=1)


def parse_save(output: str) -> dict[str, tuple[bool, list[SavedRule]]]:
    """What `iptables-save -t TABLE` printed, by chain: whether it is builtin, and its rules in order."""
    chains: dict[str, tuple[bool, list[SavedRule]]] = {}
    for line in output.splitlines():
        if line.startswith("-A "):
            chain, _, words = line[3:].partition(" ")
            chains[chain][1].append(_saved_rule(words))
        elif line.startswith(":"):
            chain, policy, _ = line[1:].split(" ", 2)
            chains[chain] = (policy != "-", [])
    return chains


def _saved_rule(words: str) -> SavedRule:
    found = _COMMENT.search(words)
    tag, place, rank = found.groups() if found is not None else ("", "", 0)
    return SavedRule(words, tag, place or "", int(rank or 0))


class SavedTable(NamedTuple):
    """A table as a tool printed it: rules in builtin chains, and of other chains the tags of their rules."""

    builtin: dict[str, list[SavedRule]]
    tags: dict[str, list[str]]


def parse_tables(output: str) -> dict[str, SavedTable]:
    """What `iptables-save` printed, by table. Of thousands of rules in chains of ours nothing but the tag is kept."""
    tables: dict[str, SavedTable] = {}
    builtin: dict[str, list[SavedRule]] = {}
    tags: dict[str, list[str]] = {}
    search = _COMMENT.search
    for line in output.splitlines():
        if line.startswith("-A "):
            chain, _, words = line[3:].partition(" ")
            if (known := tags.get(chain)) is not None:
                found = search(words)
                known.append(found[1] if found is not None else "")
            else:
                builtin[chain].append(_saved_rule(words))
        elif line.startswith(":"):
            chain, policy, _ = line[1:].split(" ", 2)
            if policy == "-":
                tags[chain] = []
            else:
                builtin[chain] = []
        elif line.startswith("*"):
            builtin, tags = tables[line[1:]] = SavedTable({}, {})
    return tables


def commented(rules: Iterable[tuple[str, str]], builtin: Collection[str], chains: Iterable[str]) -> SavedTable:
    """A table of whose rules only chain and comment are known; of `chains` these are builtin."""
    table = SavedTable({name: [] for name in builtin}, {name: [] for name in chains if name not in builtin})
    for chain, comment in rules:
        found = _TAG.fullmatch(comment)
        tag, place, rank = found.groups() if found is not None else ("", "", 0)
        if chain in table.builtin:
            table.builtin[chain].append(SavedRule("", tag, place or "", int(rank or 0)))
        elif chain in table.tags:
            table.tags[chain].append(tag)
    return table


DISPENSABLE = " --random-fully"
"""Words that a rule can do without where the tool does not know them: iptables has had them since 1.6.2."""


def placed(text: str, place: str, rank: int, *, meant: str = "") -> str:
    """The words of a rule in a builtin chain; its comment also says where it belongs, and what was `meant` by it."""
    return f"-m comment --comment {MARKER}{rule_tag(meant or text)}:{place}:{rank} {text}"


class Script:
    """Input of `iptables-restore --noflush` for one table, in which each line remembers what it is for."""

    def __init__(self, table: str) -> None:
        # The tools want every chain declared before a rule that jumps to it.
        self._declared: list[tuple[str, object]] = [(f"*{table}", None)]
        self._added: list[tuple[str, object]] = []

    def add(self, line: str, subject: object) -> None:
        """Append a line on behalf of a subject."""
        self._added.append((line, subject))

    def chain(self, name: str, rules: Sequence[str], subject: object, *, tags: bytes | None = None) -> None:
        """Make a chain hold exactly these rules, whether it exists or not. Their tags are made where not given."""
        self.declare(name, subject)
        self.fill(name, rules, subject, tags=tags)

    def declare(self, name: str, subject: object) -> None:
        """Make a chain, empty whether it exists or not."""
        self._declared.append((f":{name} - [0:0]", subject))

    def fill(self, name: str, rules: Sequence[str], subject: object, *, tags: bytes | None = None) -> None:
        """Append rules to a chain that is declared."""
        head = f"-A {name} -m comment --comment {MARKER}"
        texts = zip(split_tags(rule_tags(rules) if tags is None else tags), rules, strict=True)
        self._added += [(f"{head}{tag} {text}", subject) for tag, text in texts]

    def __str__(self) -> str:
        return "\n".join([*(line for line, _ in self._all()), "COMMIT", ""])

    def _all(self) -> list[tuple[str, object]]:
        return [*self._declared, *self._added]

    def culprits(self, errors: str) -> list[object]:
        """The subjects of the lines that an error output complains of, in order; none if it does not tell."""
        return list(dict.fromkeys(subject for subject, _ in self.faults(errors)))

    def faults(self, errors: str) -> list[tuple[object, str]]:
        """The same with the text of each rule, which is empty for a line that is none."""
        lines = self._all()
        numbers = (int(number) - 1 for number in _LINE.findall(errors))
        found = [lines[index] for index in numbers if 0 < index < len(lines)]
        # What the kernel lacks legacy tools are refused at COMMIT, but with a warning beforehand.
        for name in _LACKED.findall(errors) if not found else ():
            found += [line for line in lines if f" -m {name} " in line[0] or f" -j {name}" in line[0]]
        # Missing chains are noticed at COMMIT as well; then the chain that refers to them is to blame.
        for name in _NAME.findall(errors) if not found else ():
            found += [line for line in lines if line[0].endswith((f"-j {name}", f"-g {name}"))]
        return [(subject, _rule(line)) for line, subject in found if subject is not None]


def _rule(line: str) -> str:
    """The text of a rule as `fill` wrote it behind its tag."""
    return line.partition(f"--comment {MARKER}")[2].partition(" ")[2]


def complaint(errors: str) -> str:
    """The first telling line of an error output."""
    for line in errors.splitlines():
        text = line.partition("): ")[2].strip() if "-restore v" in line else line.strip()
        if text:
            return text
    return "refused without a reason"


def jumps(rules: Sequence[str]) -> list[str]:
    """The targets of rules: the word after -j or -g."""
    return _TARGET.findall("\n".join(rules))
