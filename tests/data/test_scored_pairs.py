"""Rows of preferences as a reward model reads them."""

from __future__ import annotations

import pytest

from crucible_kitchen.adapters.noop import ByteTokenizer
from crucible_kitchen.data import Conversation, Judgement, prepare_pairs, scored_tokens
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.types import Message

ROW = {"prompt": "What is 1?", "chosen": "It is 1.", "rejected": "No."}


def text(datum) -> str:
    return ByteTokenizer().decode(datum.model_input.to_ints())


def test_both_answers_are_whole_conversations_behind_one_prompt() -> None:
    made = prepare_pairs([ROW], ByteTokenizer(), form="scored")
    ((chosen, rejected),) = made.pairs
    start = "<|im_start|>user\nWhat is 1?<|im_end|>\n<|im_start|>assistant\n"
    assert text(chosen) == f"{start}It is 1.<|im_end|>\n"
    assert text(rejected) == f"{start}No.<|im_end|>\n"
    assert not chosen.loss_fn_inputs
    assert made.judgements == [Judgement(0.0, False)]
    assert (made.truncated, made.dropped) == (0, 0)


def test_margin_and_tie_are_read_where_they_are() -> None:
    rows = [{**ROW, "margin": 2}, {**ROW, "tie": True}, {**ROW, "margin": None, "tie": None}]
    made = prepare_pairs(rows, ByteTokenizer(), form="scored")
    assert made.judgements == [Judgement(2.0, False), Judgement(0.0, True), Judgement(0.0, False)]


def test_padding_at_the_end_is_not_scored() -> None:
    class PadsWithItsEnd(ByteTokenizer):
        pad_token_id = 10  # the newline that ends a turn of ChatML

    conversation = Conversation((Message("user", "a"), Message("assistant", "b")), 1)
    ours = scored_tokens(conversation, PadsWithItsEnd())
    assert ByteTokenizer().decode(ours).endswith("b<|im_end|>")


@pytest.mark.parametrize("truncation", ["left", "middle"])
def test_cutting_takes_the_same_of_the_prompt_and_nothing_of_an_answer(truncation) -> None:
    row = {**ROW, "prompt": "What is " + "very " * 20 + "much?"}
    made = prepare_pairs(
        [row], ByteTokenizer(), form="scored", max_length=60, truncation=truncation
    )
    ((chosen, rejected),) = made.pairs
    assert (chosen.model_input.length, made.truncated) == (60, 1)
    ends = "<|im_start|>assistant\nIt is 1.<|im_end|>\n", "<|im_start|>assistant\nNo.<|im_end|>\n"
    assert text(chosen).endswith(ends[0])
    assert text(chosen).removesuffix(ends[0]) == text(rejected).removesuffix(ends[1])


def test_rows_too_long_are_refused_or_dropped() -> None:
    rows = [ROW, {**ROW, "chosen": "It is " + "very " * 20 + "much."}]
    with pytest.raises(DataError, match=r"row 7: has 1\d\d tokens, more than max_length = 80"):
        prepare_pairs(rows, ByteTokenizer(), form="scored", max_length=80, places=[3, 7])
    made = prepare_pairs(rows, ByteTokenizer(), form="scored", max_length=80, truncation="drop")
    assert (len(made.pairs), made.dropped) == (1, 1)


def test_what_cannot_be_compared_is_refused() -> None:
    same = {**ROW, "rejected": ROW["chosen"]}
    with pytest.raises(DataError, match="row 0: chosen and rejected must differ"):
        prepare_pairs([same], ByteTokenizer(), form="scored")
    with pytest.raises(
        DataError, match=r"no pair to train on: 1 row\(s\) came and 1 were left out"
    ):
        prepare_pairs([same], ByteTokenizer(), form="scored", equal_answers="drop")
    with pytest.raises(ConfigError, match="must not be 'right' for pairs"):
        prepare_pairs([ROW], ByteTokenizer(), form="scored", truncation="right")
    with pytest.raises(DataError, match=r"row 0: margin: .*finite"):
        prepare_pairs([{**ROW, "margin": float("inf")}], ByteTokenizer())
