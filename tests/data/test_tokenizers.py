"""Rendering through a real tokenizer agrees with the tokenizer's own rendering."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible_kitchen.data import build_datums, render
from crucible_kitchen.errors import DataError
from crucible_kitchen.testing.tiny_model import tiny_llama
from crucible_kitchen.types import Message


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama(tmp_path_factory.mktemp("model")))


contents = st.text(st.sampled_from("ab \n.0é<"), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=contents, answer=contents)
def test_the_prompt_is_what_inference_sees_and_the_answer_follows(tokenizer, question, answer):
    turns = [Message("user", question), Message("assistant", answer)]
    plain = [turn.to_dict() for turn in turns]
    rendered = render(turns, tokenizer, "last_assistant")
    trained = [t for t, weight in zip(rendered.tokens, rendered.weights, strict=True) if weight]
    prompt = tokenizer.apply_chat_template(plain[:1], add_generation_prompt=True, return_dict=False)
    assert list(rendered.tokens[: len(prompt)]) == prompt
    assert not any(rendered.weights[: len(prompt)])
    assert tokenizer.decode(trained) == answer + tokenizer.eos_token
    assert trained[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(rendered.tokens) == tokenizer.apply_chat_template(plain, tokenize=False)


# Templates as models have them: how a turn ends, and the template.
TEMPLATES = {
    "chatml": (
        "<|im_end|>",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "llama3": (
        "<|eot_id|>",
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}",
    ),
    "gemma": (
        "<end_of_turn>",
        "<bos>{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "mistral": (
        "</s>",
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
    ),
    "zephyr": (
        "</s>",
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
}
# One that closes a conversation with a token of its own.
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)
SPECIAL = ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<bos>"]
SPECIAL += ["<start_of_turn>", "<end_of_turn>", "<s>", "</s>", "<|end|>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model"))


def with_template(model: str, end: str, template: str):
    """A tokenizer with a model's template, that fills up with the token that ends a sequence."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = template
    tokenizer.eos_token = tokenizer.pad_token = end
    return tokenizer


@pytest.fixture(scope="module", params=sorted(TEMPLATES))
def templated(request, model):
    return with_template(model, *TEMPLATES[request.param])


def trained_runs(tokenizer, datum) -> list[str]:
    """The text of each stretch of trained targets."""
    targets = datum.loss_fn_inputs["target_tokens"].tolist()
    runs: list[list[int]] = [[]]
    for target, weight in zip(targets, datum.loss_fn_inputs["weights"].tolist(), strict=True):
        if weight:
            runs[-1].append(target)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


CONVERSATION = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four five"},
]


def test_every_template_trains_the_answer_and_the_end_of_its_turn(templated) -> None:
    datum = build_datums([{"messages": CONVERSATION}], templated)[0]
    assert [run.strip() for run in trained_runs(templated, datum)] == [
        f"four five{templated.eos_token}"
    ]
    assert datum.loss_fn_inputs["target_tokens"].tolist()[-1] == templated.eos_token_id
    assert datum.loss_fn_inputs["weights"].tolist()[-1] == 1.0, "also where pad is the same token"
    both = build_datums([{"messages": CONVERSATION}], templated, train_on="all_assistant")[0]
    end = templated.eos_token
    assert [r.strip() for r in trained_runs(templated, both)] == [f"two{end}", f"four five{end}"]


def test_rows_of_any_length_are_never_filled_up(templated) -> None:
    rows = [{"messages": CONVERSATION[: 2 * n]} for n in (1, 2)]
    datums = build_datums(rows, templated)
    assert datums[0].model_input.length < datums[1].model_input.length
    for datum, row in zip(datums, rows, strict=True):
        whole = templated.apply_chat_template(row["messages"], return_dict=False)
        tokens = [*datum.model_input.to_ints(), datum.loss_fn_inputs["target_tokens"].tolist()[-1]]
        assert tokens == whole[: len(tokens)]


def test_a_template_that_closes_a_conversation_trains_its_last_turn_whole(model) -> None:
    tokenizer = with_template(model, "<|end|>", PHI3)
    datum = build_datums([{"messages": CONVERSATION[:2]}], tokenizer)[0]
    assert trained_runs(tokenizer, datum) == ["two<|end|>\n<|endoftext|>"]
    with pytest.raises(DataError, match="renders message 1 differently"):
        build_datums([{"messages": CONVERSATION}], tokenizer, train_on="all_assistant")


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}"
    "<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@settings(deadline=None)
@given(contents=st.lists(st.text(st.sampled_from("ab \n.0é<"), max_size=9), min_size=2, max_size=6))
def test_the_mask_is_that_of_transformers_where_a_template_marks_answers(model, contents) -> None:
    tokenizer = with_template(model, "<|im_end|>", MARKED)
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": content}
        for n, content in enumerate(contents[: len(contents) // 2 * 2])
    ]
    wanted = tokenizer.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    got = render([Message(**turn) for turn in turns], tokenizer, "all_assistant")
    marked = [
        t for t, keep in zip(wanted["input_ids"], wanted["assistant_masks"], strict=True) if keep
    ]
    trained = [t for t, weight in zip(got.tokens, got.weights, strict=True) if weight]
    assert tokenizer.decode(trained) == tokenizer.decode(marked)
    # Our pieces are tokenized apart, as at inference, so compare where they are the same tokens.
    if list(got.tokens) == wanted["input_ids"]:
        assert list(got.weights) == wanted["assistant_masks"]
