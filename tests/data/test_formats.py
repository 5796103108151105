"""Rows of every format say what they say, and bad rows are named."""

from __future__ import annotations

import json

import pytest

from crucible_kitchen.data import Conversation, PlainText, parse_row, to_messages
from crucible_kitchen.errors import DataError

USER, ASSISTANT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def said(row):
    return [(message.role, message.content) for message in to_messages(row)]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT], "id": 7},
        {"prompt": "Q", "completion": "A"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "completion": "A"},
        {"instruction": "Q", "output": "A"},
        {"instruction": "Q", "input": "", "output": "A", "text": "Q A"},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"conversations": [USER, ASSISTANT]},
        {"messages": json.dumps([USER, ASSISTANT]), "tools": ""},
        {"conversations": '[{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]'},
        {"messages": [USER, ASSISTANT], "prompt": None, "text": "rendered"},
    ],
)
def test_formats_say_the_same(row):
    assert said(row) == [("user", "Q"), ("assistant", "A")]


def test_an_input_stands_behind_its_instruction():
    assert said({"instruction": "Add", "input": "1 2", "output": "3"})[0] == ("user", "Add\n\n1 2")


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"instruction": "Q", "output": "A"},
    ],
)
def test_a_system_prompt_of_its_own_column_comes_first(row):
    assert said({"system": "S", **row}) == [("system", "S"), ("user", "Q"), ("assistant", "A")]
    assert said({"system": "", **row}) == [("user", "Q"), ("assistant", "A")]
    prompts = [parse_row({**row, **more}).prompt_messages for more in ({}, {"system": "S"})]
    assert prompts in ([1, 2], [None, None])


def test_the_prompt_keeps_its_length_and_its_tools():
    row = {"prompt": [USER, ASSISTANT, USER], "completion": "A", "tools": [{"name": "f"}]}
    example = parse_row(row)
    assert isinstance(example, Conversation)
    assert example.prompt_messages == 3
    assert example.tools == ({"name": "f"},)


def test_text_is_no_conversation():
    assert parse_row({"text": "once"}) == PlainText("once")
    with pytest.raises(DataError, match="row 4 must be a conversation"):
        to_messages({"text": "once"}, 4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q", "answer": None}, r"row 3 must have messages; or .*text; got question, "),
        ({}, "row 3 must have .* got no columns"),
        ("Q", "row 3 must be a mapping from column to value, got str"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "row 3 .* preference training"),
        ({"messages": []}, "row 3: messages: must hold at least one message, got an empty list"),
        ({"messages": "hi"}, "row 3: messages: must be a list .*, or JSON of one, got 'hi'"),
        ({"messages": '{"role": "user"}'}, "row 3: messages: must be a list of messages, got dict"),
        (
            {"prompt": "Q", "completion": [USER, ASSISTANT]},
            "row 3: completion: must begin with a message of the assistant, .* got user",
        ),
        ({"messages": [USER, {"role": "bot"}]}, "row 3: messages: message 1: .* got 'bot'"),
        ({"messages": [{"role": "user", "contnet": "Q"}]}, "did you mean 'content'"),
        ({"instruction": 5, "output": "A"}, "row 3: instruction: .* valid string, got 5"),
        ({"instruction": "Q", "input": [1], "output": 5}, r"input: .*got \[1\]; output: .*got 5"),
        ({"prompt": 1, "completion": "A"}, "row 3: prompt: must be text or a list .*, got int"),
        ({"text": "a\ud83d"}, "row 3: text: must be Unicode, got half of a surrogate pair"),
        (
            {"messages": [USER, {"role": "assistant", "content": "\udc00"}]},
            "row 3: messages: must be Unicode",
        ),
        ({"text": ""}, "row 3: text: .* got ''"),
        ({"conversations": [{"from": "human"}]}, "message 0: must have 'from' and 'value'"),
        (
            {"messages": [USER], "tools": "f"},
            "row 3: tools: must be a list .* or JSON of one, got 'f'",
        ),
    ],
)
def test_a_bad_row_is_named_with_what_came_and_what_was_wanted(row, message):
    with pytest.raises(DataError, match=message):
        parse_row(row, 3)


def test_tools_may_be_json_in_text() -> None:
    row = {"conversations": [{"from": "human", "value": "Q"}], "tools": '[{"name": "f"}]'}
    assert parse_row(row).tools == ({"name": "f"},)


@pytest.mark.parametrize(
    ("given", "label"),
    [(True, True), (0, False), (None, None), ("True", True), ("0", False), ("", None)],
)
def test_a_label_says_whether_an_answer_is_a_good_one(given, label) -> None:
    assert parse_row({"prompt": "Q", "completion": "A", "label": given}).label is label


def test_a_label_that_is_neither_is_refused() -> None:
    with pytest.raises(DataError, match=r"row 2: label: .*valid boolean, got 'good'"):
        parse_row({"prompt": "Q", "completion": "A", "label": "good"}, 2)
