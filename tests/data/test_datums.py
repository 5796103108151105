"""Rows become datums with shifted targets; nothing that is learnt gets lost unsaid."""

from __future__ import annotations

import pytest

from crucible_kitchen.adapters.noop import ByteTokenizer
from crucible_kitchen.data import Rendered, build_datums, prepare
from crucible_kitchen.data.truncate import truncated
from crucible_kitchen.errors import ConfigError, DataError

TOKENIZER = ByteTokenizer()


def pair(question="a", answer="b"):
    return {"prompt": question, "completion": answer}


def test_targets_are_the_next_tokens_and_weights_belong_to_them():
    (datum,) = build_datums([pair()], TOKENIZER)
    whole = TOKENIZER.encode("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>")
    assert datum.model_input.to_ints() == whole[:-1]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == whole[1:]
    weights = datum.loss_fn_inputs["weights"].tolist()
    assert weights == [0.0] * (len(whole) - 3) + [1.0, 1.0]


def test_statistics_count_rows_and_tokens():
    silent = {"messages": [{"role": "user", "content": "?"}]}
    rows = [pair(), silent, pair("a" * 90), {"text": "abc"}]
    datums, statistics = prepare(
        rows, TOKENIZER, max_length=60, truncation="drop", untrained="drop"
    )
    lengths = [datum.model_input.length for datum in datums]
    assert (statistics.rows, statistics.datums, statistics.dropped) == (4, 2, 2)
    assert (statistics.dropped_long, statistics.dropped_untrained, statistics.truncated) == (
        1,
        1,
        0,
    )
    assert (statistics.tokens, statistics.longest) == (sum(lengths), max(lengths))
    assert statistics.trained_tokens == 2 + 3


def test_a_row_without_a_trained_token_is_named_with_its_roles():
    rows = [pair(), {"messages": [{"role": "user", "content": "?"}]}]
    with pytest.raises(DataError, match=r"row 1: has no trained token: .*messages are of user"):
        build_datums(rows, TOKENIZER)


def test_rows_of_a_part_are_named_by_their_place_in_the_whole():
    with pytest.raises(DataError, match="row 41 must have"):
        build_datums([pair(), {}], TOKENIZER, places=[7, 41])


def test_no_rows_is_an_error():
    with pytest.raises(DataError, match="no row to train on: the data set is empty"):
        build_datums([], TOKENIZER)
    with pytest.raises(DataError, match="1 came, 1 are too long and 0 have no trained token"):
        build_datums([pair()], TOKENIZER, max_length=5, truncation="drop")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"train_on": "last"}, "train_on: must be one of"),
        ({"truncation": "midle"}, "did you mean 'middle'"),
        ({"untrained": "skip"}, "untrained: must be error or drop, got 'skip'"),
        ({"max_length": 1}, "max_length: must be at least 2"),
    ],
)
def test_a_bad_option_is_found_before_any_row_is_read(option, message):
    with pytest.raises(ConfigError, match=message):
        build_datums(iter([{}]), TOKENIZER, **option)


def test_a_long_row_is_an_error_by_default_and_says_how_long_it_is():
    message = r"row 0: has 26 tokens, more than max_length = 25; .*'middle'"
    with pytest.raises(DataError, match=message):
        build_datums([pair("abc", "def")], TOKENIZER, max_length=25)
    assert build_datums([pair("abc", "def")], TOKENIZER, max_length=26)


def test_what_is_not_read_does_not_make_a_row_too_long():
    rows = [{"messages": [{"role": "assistant", "content": "a"}, *[USER] * 50]}]
    (datum,) = build_datums(rows, TOKENIZER, max_length=20)
    assert datum.model_input.length < 20


USER = {"role": "user", "content": "more and more"}


def row(weights):
    """A row whose tokens are their places."""
    return Rendered(tuple(range(len(weights))), tuple(float(weight) for weight in weights))


@pytest.mark.parametrize(
    ("truncation", "weights", "max_length", "kept"),
    [
        ("left", [0, 0, 0, 0, 1, 1], 4, [2, 3, 4, 5]),
        ("left", [0, 0, 0, 0, 1, 1], 3, [3, 4, 5]),
        ("left", [0, 0, 0, 0, 1, 1], 2, None),
        ("left", [0, 1, 1, 0, 1, 1], 3, [3, 4, 5]),
        ("left", [1, 1, 1, 1, 1, 1], 2, [4, 5]),
        ("middle", [0, 0, 0, 0, 1, 1], 5, [0, 2, 3, 4, 5]),
        ("middle", [0, 0, 0, 0, 1, 1], 4, [0, 3, 4, 5]),
        ("middle", [0, 0, 0, 0, 1, 1], 3, [3, 4, 5]),
        ("middle", [0, 0, 0, 0, 1, 1], 2, None),
        ("middle", [0, 1, 1, 0, 1, 1], 5, None),
        ("middle", [1, 1, 1, 1, 1, 1], 2, [4, 5]),
        ("right", [0, 0, 0, 0, 1, 1], 5, [0, 1, 2, 3, 4]),
        ("right", [0, 0, 0, 0, 1, 1], 4, None),
        ("right", [1, 0, 0, 0, 1, 1], 4, None),
        ("right", [1, 1, 1, 1, 1, 1], 2, [0, 1]),
        ("drop", [0, 0, 1], 3, [0, 1, 2]),
    ],
)
def test_where_a_row_is_cut(truncation, weights, max_length, kept):
    rendered = row(weights)
    if kept is None:
        with pytest.raises(DataError, match="without losing the answer"):
            truncated(rendered, max_length, truncation)
        return
    cut = truncated(rendered, max_length, truncation)
    assert list(cut.tokens) == kept
    assert list(cut.weights) == [weights[place] for place in kept]


@pytest.mark.parametrize("truncation", ["left", "middle"])
def test_cut_prompts_keep_the_answer_and_are_counted(truncation):
    datums, statistics = prepare(
        [pair("q" * 100, "answer")], TOKENIZER, max_length=40, truncation=truncation
    )
    assert statistics.truncated == 1
    assert datums[0].model_input.length == 39
    assert TOKENIZER.decode(datums[0].loss_fn_inputs["target_tokens"].tolist()[-7:]) == (
        "answer<|im_end|>"
    )


def test_an_answer_whose_label_is_false_is_not_learnt() -> None:
    good, bad = ({"prompt": "a", "completion": "b", "label": label} for label in (True, False))
    with pytest.raises(DataError, match="row 1: has no trained token: its label says"):
        prepare([good, bad], ByteTokenizer())
    prepared = prepare([good, bad], ByteTokenizer(), untrained="drop")
    assert (len(prepared.datums), prepared.statistics.dropped_untrained) == (1, 1)
