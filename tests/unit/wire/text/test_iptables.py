"""Scripts for iptables-restore, and the tags by which their chains are found again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kuberouter.model.core import Family
from kuberouter.model.netfilter import OTHERWISE, ChainKey, Table, chain_tag, count_tag, make_named_chain
from kuberouter.wire.text.iptables import Script, parse_tables
from kuberouter.wire.text.tags import MARKER

RULES = ("-p tcp -j RETURN", "-j DROP")


def saved(script: Script, *more: str) -> bytes:
    """The tag of a chain as it is read back from a table that holds the script's rules, and more."""
    lines = str(script).replace("COMMIT\n", "\n".join((*more, "COMMIT", "")))
    return parse_tables(lines)["filter"].chains["KUBE-A"].tag


def script(rules: Sequence[str] = RULES, *, tag: bytes = b"") -> Script:
    made = Script("filter")
    made.chain("KUBE-A", rules, "A", tag=tag)
    return made


def test_the_first_rule_carries_the_tag_of_all_and_their_number() -> None:
    first = f"-A KUBE-A -m comment --comment {MARKER}{chain_tag(RULES).hex()}:2 {RULES[0]}"
    assert str(script()).splitlines() == ["*filter", ":KUBE-A - [0:0]", first, f"-A KUBE-A {RULES[1]}", "COMMIT"]
    assert str(script(tag=chain_tag(RULES))) == str(script())


@pytest.mark.parametrize("rules", [(), RULES[:1], RULES])
def test_a_tag_is_read_back_as_it_was_meant(rules: Sequence[str]) -> None:
    assert saved(script(rules)) == chain_tag(rules)
    assert chain_tag(rules) != OTHERWISE


@pytest.mark.parametrize("rules", [(), RULES[:1], RULES])
def test_a_rule_of_somebody_else_in_a_chain_shows_in_its_tag(rules: Sequence[str]) -> None:
    assert saved(script(rules), "-A KUBE-A -j ACCEPT") == (OTHERWISE if rules else count_tag(1))


def test_a_missing_rule_shows_in_the_tag() -> None:
    lines = str(script()).splitlines()
    for line, tag in ((2, count_tag(1)), (3, OTHERWISE)):
        left = "\n".join(lines[:line] + lines[line + 1 :])
        assert parse_tables(left)["filter"].chains["KUBE-A"].tag == tag


def test_a_chain_whose_name_says_its_rules_has_no_comment_and_is_known_by_their_number() -> None:
    row = make_named_chain(ChainKey(Family.IPV4, Table.FILTER, "KUBE-A"), RULES)
    made = script(tag=row.tag)
    assert MARKER not in str(made)
    assert saved(made) == row.tag
    for wrong in (saved(made, "-A KUBE-A -j ACCEPT"), saved(script(RULES[:1], tag=count_tag(1))), saved(script())):
        assert wrong != row.tag
    assert make_named_chain(row.key, ()).tag == saved(script(())) != row.tag


def test_what_a_former_release_wrote_is_written_anew() -> None:
    """It had a tag in every rule, and no number."""
    old = "\n".join(f"-A KUBE-A -m comment --comment {MARKER}0123456789 {text}" for text in RULES)
    assert parse_tables(f"*filter\n:KUBE-A - [0:0]\n{old}\nCOMMIT\n")["filter"].chains["KUBE-A"].tag == OTHERWISE


def test_a_place_in_a_builtin_chain_is_no_number_of_rules() -> None:
    line = f"-A KUBE-A -m comment --comment {MARKER}0123456789:first:1 -j DROP"
    assert parse_tables(f"*filter\n:KUBE-A - [0:0]\n{line}\nCOMMIT\n")["filter"].chains["KUBE-A"].tag == OTHERWISE


def test_a_complaint_leads_to_the_rule_that_it_is_about() -> None:
    made = script()
    assert made.faults("iptables-restore: line 4 failed\n") == [("A", RULES[1])]
    # Line 2 declares the chain, and the last one commits.
    assert made.faults("iptables-restore: line 2 failed\n") == [("A", "")]
    assert made.faults("iptables-restore: line 5 failed\n") == []


def test_what_the_kernel_lacks_is_blamed_where_the_tool_warns_and_names_no_rule() -> None:
    lacking = ("-m physdev --physdev-in veth1 -j DROP", "-p tcp -j NFLOG --nflog-group 100")
    made = script()
    made.chain("KUBE-B", lacking, "B")
    warning = "Warning: Extension {} revision 0 not supported, missing kernel module?\n"
    at_commit = "iptables-restore: line 8 failed\n"
    assert made.faults(warning.format("physdev") + at_commit) == [("B", lacking[0])]
    both = warning.format("NFLOG") + warning.format("physdev") + at_commit
    assert set(made.faults(both)) == {("B", rule) for rule in lacking}
    # The nft tool warns of what it has words of its own for, too, and then blames the rule.
    assert made.faults(warning.format("NFLOG") + "line 4: RULE_APPEND failed (No such file)\n") == [("A", RULES[0])]
