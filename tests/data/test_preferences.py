"""Rows of preferences as pairs: every form says the same, both answers keep one prompt."""

from __future__ import annotations

import pytest

from crucible_kitchen.adapters.noop import ByteTokenizer
from crucible_kitchen.data import desensitised, parse_preference, prepare_pairs
from crucible_kitchen.errors import ConfigError, DataError

Q = {"role": "user", "content": "Q"}
S = {"role": "system", "content": "S"}
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad one"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad one"},
        {"prompt": [Q], "chosen": [GOOD], "rejected": "bad one"},
        {"prompt": "Q", "chosen": [GOOD], "rejected": [BAD], "score": 3},
        {"prompt": "Q", "chosen": [Q, GOOD], "rejected": [Q, BAD]},
        {"chosen": [Q, GOOD], "rejected": [Q, BAD]},
        {"prompt": None, "chosen": [Q, GOOD], "rejected": [Q, BAD]},
        {"prompt": "Q", "chosen": "good", "rejected": "bad one", "margin": "", "tie": "false"},
        {
            "chosen": "\n\nHuman: Q\n\nAssistant: good",
            "rejected": "\n\nHuman: Q\n\nAssistant: bad one",
        },
    ],
)
def test_forms_say_the_same(row) -> None:
    said = [
        ([(m.role, m.content) for m in side.messages], side.prompt_messages)
        for side in parse_preference(row)
    ]
    assert said == [
        ([("user", "Q"), ("assistant", "good")], 1),
        ([("user", "Q"), ("assistant", "bad one")], 1),
    ]


@pytest.mark.parametrize("prompt", ["Q", [S, Q]])
def test_answers_may_repeat_the_prompt_behind_a_system_message(prompt) -> None:
    row = {"prompt": prompt, "chosen": [S, Q, GOOD], "rejected": [S, Q, BAD]}
    for side in parse_preference(row):
        assert [message.role for message in side.messages] == ["system", "user", "assistant"]
        assert side.prompt_messages == 2


def test_an_implicit_prompt_is_the_longest_common_beginning() -> None:
    shared = [Q, GOOD, {"role": "user", "content": "more"}]
    row = {"chosen": [*shared, GOOD], "rejected": [*shared, BAD]}
    assert [side.prompt_messages for side in parse_preference(row)] == [3, 3]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q: 2 + 2? A: 4", "Q: 2 + 2? A: five", "Q: 2 + 2? A:"),
        ("It is 40.", "It is 45.", "It is"),
        ("Well? Yes, sir", "Well? Yes!", "Well? Yes"),
        ("Well?\n\nYes", "Well?\n\nYes, it is", "Well?"),
        ("Write: Human: a", "Write: Human: b", "Write: Human:"),
        ("\u95ee\u7b54\u56db", "\u95ee\u7b54\u4e94", "\u95ee\u7b54"),
    ],
)
def test_an_implicit_prompt_of_texts_is_their_common_words(chosen, rejected, prompt) -> None:
    sides = parse_preference({"chosen": chosen, "rejected": rejected})
    for side, text in zip(sides, (chosen, rejected), strict=True):
        asked, said = side.messages
        assert (asked.role, asked.content, said.role) == ("user", prompt, "assistant")
        assert asked.content + said.content == text, "nothing is lost"
        assert side.prompt_messages == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], "row 7 must be a mapping"),
        (
            {"prompt": "Q", "chosen": "good"},
            "row 7 must have prompt, chosen, rejected.*without rej",
        ),
        ({"prompt": "Q", "completion": "x"}, "without chosen and rejected"),
        ({"chosen": "good", "rejected": "bad"}, "row 7: .*must begin with the same prompt"),
        ({"chosen": "good", "rejected": "good and bad"}, "row 7: .*begin with the same prompt"),
        ({"chosen": [Q, GOOD], "rejected": "bad"}, "row 7: .*must begin with the same prompt"),
        (
            {"prompt": 3, "chosen": "good", "rejected": "bad"},
            "row 7: prompt: must be text or a list",
        ),
        ({"prompt": "Q", "chosen": [{"role": "x"}], "rejected": "bad"}, "row 7: chosen: message 0"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "row 7: .*must begin with the same prompt"),
        ({"chosen": [Q, GOOD], "rejected": [Q]}, "row 7: rejected must have an assistant's answer"),
        ({"chosen": [Q], "rejected": [Q, BAD]}, "row 7: chosen must have an assistant's answer"),
        ({"prompt": "Q", "chosen": [Q], "rejected": [BAD]}, "row 7: chosen must have an assistant"),
        (
            {"prompt": "R", "chosen": [S, Q, GOOD], "rejected": [S, Q, BAD]},
            "row 7: chosen must go on with a message of the assistant .* got system",
        ),
        (
            {"prompt": "Q", "chosen": [S, Q, GOOD], "rejected": [Q, BAD]},
            "row 7: chosen must go on with a message of the assistant .* got system",
        ),
    ],
)
def test_a_bad_row_is_named(row, said) -> None:
    with pytest.raises(DataError, match=said):
        parse_preference(row, 7)


def row(prompt: str, chosen: str = "good", rejected: str = "bad one"):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def trained(datum):
    weights = datum.loss_fn_inputs["weights"].numpy()
    return datum.loss_fn_inputs["target_tokens"].numpy()[weights > 0].tolist()


def prompt_of(datum):
    return datum.model_input.to_ints()[: -len(trained(datum)) + 1]


def test_weights_are_1_on_the_answer_and_its_end_and_both_share_the_prompt() -> None:
    tokenizer = ByteTokenizer()
    pair = prepare_pairs([row("Q")], tokenizer).pairs[0]
    for datum, text in zip(pair, ("good", "bad one"), strict=True):
        assert set(datum.loss_fn_inputs["weights"].tolist()) == {0.0, 1.0}
        assert tokenizer.decode(trained(datum), skip_special_tokens=True).strip() == text
    assert prompt_of(pair.chosen) == prompt_of(pair.rejected)


@pytest.mark.parametrize("truncation", ["left", "middle"])
def test_cutting_takes_the_same_tokens_of_the_prompt_and_none_of_an_answer(truncation) -> None:
    rows = [row("abcdefghijklmnopqrstuvwxyz", "good", "a much longer answer than the other")]
    whole = prepare_pairs(rows, ByteTokenizer())
    longest = max(datum.model_input.length for datum in whole.pairs[0]) + 1
    cut = prepare_pairs(rows, ByteTokenizer(), max_length=longest - 9, truncation=truncation)
    assert cut.truncated == 1
    assert whole.truncated == 0
    assert [trained(d) for d in cut.pairs[0]] == [trained(d) for d in whole.pairs[0]]
    one, other = (prompt_of(datum) for datum in cut.pairs[0])
    assert one == other
    assert len(one) == len(prompt_of(whole.pairs[0].chosen)) - 9
    assert max(datum.model_input.length for datum in cut.pairs[0]) + 1 == longest - 9


def test_an_answer_that_does_not_fit_is_an_error_that_names_the_row() -> None:
    rows = [row("Q"), row("Q", "good", "much too long " * 20)]
    with pytest.raises(DataError, match=r"row 1: .*without losing the answer"):
        prepare_pairs(rows, ByteTokenizer(), max_length=60, truncation="middle")
    with pytest.raises(DataError, match=r"row 40: has \d+ tokens, more than max_length = 60"):
        prepare_pairs(rows, ByteTokenizer(), max_length=60, places=[3, 40])
    dropped = prepare_pairs(rows, ByteTokenizer(), max_length=60, truncation="drop")
    assert (len(dropped.pairs), dropped.dropped) == (1, 1)


def test_equal_answers_are_an_error_or_left_out_and_counted() -> None:
    rows = [row("Q", "same", "same"), row("Q")]
    with pytest.raises(DataError, match="row 0: chosen and rejected must differ"):
        prepare_pairs(rows, ByteTokenizer())
    kept = prepare_pairs(rows, ByteTokenizer(), equal_answers="drop")
    assert (len(kept.pairs), len(kept.preferences), kept.dropped) == (1, 1, 1)
    with pytest.raises(DataError, match=r"no pair to train on: 1 .* 1 were left out"):
        prepare_pairs(rows[:1], ByteTokenizer(), equal_answers="drop")


def test_two_equal_conversations_are_equal_answers_too() -> None:
    with pytest.raises(DataError, match="row 0: chosen and rejected must differ"):
        prepare_pairs([{"chosen": [Q, GOOD], "rejected": [Q, GOOD]}], ByteTokenizer())


@pytest.mark.parametrize(
    "wrong",
    [{"truncation": "right"}, {"truncation": "lft"}, {"equal_answers": "x"}, {"max_length": 1}],
)
def test_a_wrong_option_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        prepare_pairs([row("Q")], ByteTokenizer(), **wrong)


def test_the_longer_answer_counts_less_beyond_the_shorter_one() -> None:
    pair = prepare_pairs([row("Q", "ab", "abcdef")], ByteTokenizer()).pairs[0]
    less = desensitised(pair, 0.25)
    weights = [datum.loss_fn_inputs["weights"].tolist() for datum in less]
    # An answer of two letters and its end; the other has four letters more.
    assert [w for w in weights[0] if w] == [1.0] * 3
    assert [w for w in weights[1] if w] == [1.0] * 3 + [0.25] * 4
    for old, new in zip(pair, less, strict=True):
        assert new.model_input.to_ints() == old.model_input.to_ints()
    assert [d.loss_fn_inputs["weights"].tolist() for d in desensitised(pair, 1.0)] == [
        d.loss_fn_inputs["weights"].tolist() for d in pair
    ]
    assert sum(desensitised(pair, 0.0).rejected.loss_fn_inputs["weights"].tolist()) == 3
