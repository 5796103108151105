"""Rendering through a real tokenizer agrees with the tokenizer's own rendering."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible_kitchen.data import render
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
