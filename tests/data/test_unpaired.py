"""Single answers with a label: who meets whom, and who stays alone."""

from __future__ import annotations

import pytest

from crucible_kitchen.data import pair_up, parse_preference
from crucible_kitchen.errors import DataError


def row(prompt: str, completion: str, label, **more):
    return {"prompt": prompt, "completion": completion, "label": label, **more}


def pairs(found):
    said = [parse_preference(one) for one in found.rows]
    return [tuple(side.messages[-1].content for side in preference) for preference in said]


def test_a_good_answer_meets_a_bad_one_to_the_same_prompt() -> None:
    rows = [row("a", "a+", True), row("b", "b-", 0), row("a", "a-", False), row("b", "b+", 1)]
    found = pair_up(rows)
    assert pairs(found) == [("a+", "a-"), ("b+", "b-")]
    assert found.places == ["0 with row 2", "3 with row 1"]
    assert found.alone == 0


def test_every_answer_is_in_a_pair() -> None:
    rows = [row("a", "+", True), *[row("a", f"-{n}", False) for n in range(3)]]
    assert pairs(pair_up(rows)) == [("+", "-0"), ("+", "-1"), ("+", "-2")]
    rows = [*[row("a", f"+{n}", True) for n in range(3)], row("a", "-0", 0), row("a", "-1", 0)]
    assert pairs(pair_up(rows)) == [("+0", "-0"), ("+1", "-1"), ("+2", "-0")]


def test_prompts_of_text_and_of_messages_are_the_same_and_tools_make_them_differ() -> None:
    asked = [{"role": "user", "content": "a"}]
    rows = [row("a", "+", True), {**row("", "-", False), "prompt": asked}]
    assert pairs(pair_up(rows)) == [("+", "-")]
    tools = [{"name": "f"}]
    with pytest.raises(DataError, match="row 0: its prompt has only good answers"):
        pair_up([row("a", "+", True), row("a", "-", False, tools=tools)])
    both = [row("a", "+", True, tools=tools), row("a", "-", False, tools=tools)]
    assert pair_up(both).rows[0]["tools"] == tools


def test_other_rows_stay_as_they_are() -> None:
    pair = {"prompt": "q", "chosen": "c", "rejected": "r"}
    found = pair_up([row("a", "+", True), pair, row("a", "-", False), "bad"])
    assert found.rows[1:] == [pair, "bad"]
    assert found.places == ["0 with row 2", 1, 3]


def test_an_answer_without_a_partner_is_named_or_counted() -> None:
    rows = [row("a", "+", True), row("a", "-", False), row("b", "-", False)]
    with pytest.raises(DataError, match="row 2: its prompt has only bad answers, and a pair needs"):
        pair_up(rows)
    found = pair_up(rows, unmatched="drop")
    assert (len(found.rows), found.alone) == (1, 1)


def test_a_malformed_row_is_named() -> None:
    with pytest.raises(DataError, match=r"row 1: label: .*got 'good'"):
        pair_up([row("a", "+", True), row("a", "-", "good")])
