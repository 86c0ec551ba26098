"""The language of iptables-save and iptables-restore, and the tags by which our rules are found again in it.

The kernel reports rules in its own spelling, so texts are not compared with what was meant. A rule of ours in a builtin
chain carries in its comment a tag over its text; of a chain of ours the first rule carries one over all of them, and
their number. A comment costs as much as a match: for each packet, and with iptables-nft for every rule with each change
of the table. So the others have none, nor has a chain whose name says enough. Grammar: iptables-restore(8).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from kuberouter.model.core import Value
from kuberouter.model.netfilter import CountedRule, chain_tag, rule_tag
from kuberouter.wire.text.tags import MARKER, SavedChain, claim, counted

INCOMPATIBLE = "is incompatible, use 'nft' tool"
"""What the nft tools say of a table in which there are rules that they have no words for."""
_WORDS = r"kube-router:([0-9a-f]{10})(?::(?:(first|last):)?(\d+))?"
_COMMENT = re.compile(rf'-m comment --comment "?{_WORDS}"? ?')
_COUNTED = re.compile(r"\[(\d+):(\d+)\] -A (\S+) (.*)")
_OURS = re.compile(r'-m comment --comment "?(kube-router:[0-9a-f:]+)"? ?')
_TAG = re.compile(_WORDS)
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
    """A table as a tool printed it: rules in builtin chains, and what is to be known of the other chains."""

    builtin: dict[str, list[SavedRule]]
    chains: dict[str, SavedChain]


def parse_tables(output: str) -> dict[str, SavedTable]:
    """What `iptables-save` printed, by table. Of thousands of rules in chains of ours nothing but a tag is kept."""
    tables: dict[str, SavedTable] = {}
    builtin: dict[str, list[SavedRule]] = {}
    own: dict[str, list[str]] = {}
    for line in output.splitlines():
        if line.startswith("-A "):
            chain, _, words = line[3:].partition(" ")
            if (known := own.get(chain)) is not None:
                known.append(words)
            else:
                builtin[chain].append(_saved_rule(words))
        elif line.startswith(":"):
            chain, policy, _ = line[1:].split(" ", 2)
            if policy == "-":
                own[chain] = []
            else:
                builtin[chain] = []
        elif line.startswith("*"):
            table = tables[line[1:]] = SavedTable({}, {})
            builtin, own = table.builtin, {}
        elif line == "COMMIT":
            table.chains.update((name, _saved_chain(rules)) for name, rules in own.items())
    return tables


def _saved_chain(rules: list[str]) -> SavedChain:
    comment = _OURS.search(rules[0]) if rules else None
    return SavedChain(counted(comment[1] if comment is not None else "", len(rules)), hash(tuple(rules)))


def commented(rules: Iterable[tuple[str, str]], builtin: Collection[str], chains: Iterable[str]) -> SavedTable:
    """A table of whose rules only chain and comment are known; of `chains` these are builtin."""
    table = SavedTable({name: [] for name in builtin}, {})
    own: dict[str, list[str]] = {name: [] for name in chains if name not in table.builtin}
    for chain, comment in rules:
        if chain in table.builtin:
            found = _TAG.fullmatch(comment)
            tag, place, rank = found.groups() if found is not None else ("", "", 0)
            table.builtin[chain].append(SavedRule("", tag, place or "", int(rank or 0)))
        elif chain in own:
            own[chain].append(comment)
    for name, comments in own.items():
        table.chains[name] = SavedChain(counted(comments[0] if comments else "", len(comments)))
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

    def chain(self, name: str, rules: Sequence[str], subject: object, *, tag: bytes = b"") -> None:
        """Make a chain hold exactly these rules, whether it exists or not. Their tag is made where not given."""
        self.declare(name, subject)
        self.fill(name, rules, subject, tag=tag)

    def declare(self, name: str, subject: object) -> None:
        """Make a chain, empty whether it exists or not."""
        self._declared.append((f":{name} - [0:0]", subject))

    def fill(self, name: str, rules: Sequence[str], subject: object, *, tag: bytes = b"") -> None:
        """Append rules to a chain that is declared and empty."""
        comment = claim(tag or chain_tag(rules), len(rules))
        first = f"-m comment --comment {comment} " if comment else ""
        self._added += [(f"-A {name} {'' if at else first}{text}", subject) for at, text in enumerate(rules)]

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
    """The text of a rule as `fill` was given it, empty for a line that is none."""
    return _plain(line.split(" ", 2)[2]) if line.startswith("-A ") else ""


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
