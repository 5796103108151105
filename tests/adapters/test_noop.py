"""Noop adapters beyond their contracts: determinism, memory of calls, exact numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.adapters import noop
from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.types import Datum

_DATUM = Datum([1, 2, 3], {"labels": [1, 2, 3]})


def _losses(steps: int, learning_rate: float = 1e-3) -> list[float]:
    client = noop.TrainingClient()
    session = client.start_session({"model": "any"})
    losses = []
    for _ in range(steps):
        losses.append(client.forward_backward(session, [_DATUM]).result().loss)
        client.optim_step(session, learning_rate)
    client.close_session(session)
    client.close()
    return losses


def test_the_loss_falls_the_same_way_every_time() -> None:
    losses = _losses(30)
    assert losses == _losses(30)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 1.0
    assert len(set(_losses(5, learning_rate=0.0))) == 1


def test_calls_are_remembered_in_order() -> None:
    client = noop.TrainingClient()
    session = client.start_session({"model": "any", "lora_rank": 4})
    client.forward_backward(session, [_DATUM, _DATUM], "cross_entropy")
    client.optim_step(session, 0.5)
    client.close_session(session)
    client.close()
    methods = [call.method for call in client.calls]
    assert methods == ["start_session", "forward_backward", "optim_step", "close_session"]
    assert client.calls[0].arguments["config"].lora_rank == 4
    assert client.calls[1].arguments["datums"] == 2
    assert client.calls[2].arguments["params"].learning_rate == 0.5
    assert {call.session for call in client.calls} == {session.id}


def test_a_named_checkpoint_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = noop.TrainingClient()
    session = client.start_session({"model": "any"})
    client.forward_backward(session, [_DATUM])
    client.optim_step(session, 0.5)
    assert client.save_checkpoint(session, "best").result() == "best"
    assert list(tmp_path.iterdir()) == []
    assert client.start_session({"model": "any", "checkpoint_path": "best"}).steps == 1
    client.close()


@pytest.mark.parametrize("text", ["", "[]", '{"steps": 1}', '{"steps": "x", "learned": 0}'])
def test_a_damaged_checkpoint_is_a_port_error(tmp_path: Path, text: str) -> None:
    client = noop.TrainingClient()
    session = client.start_session({"model": "any"})
    saved = client.save_checkpoint(session, str(tmp_path / "c")).result()
    (file,) = Path(saved).iterdir()
    file.write_text(text)
    with pytest.raises(PortError, match="damaged"):
        client.load_checkpoint(session, saved)
    client.close()


def test_a_checkpoint_that_cannot_be_written_fails_its_future(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    client = noop.TrainingClient()
    session = client.start_session({"model": "any"})
    with pytest.raises(PortError, match="could not save"):
        client.save_checkpoint(session, str(tmp_path / "file" / "c")).result()
    client.close()


def test_the_error_of_a_custom_loss_comes_unchanged() -> None:
    def broken(datums: Any, logprobs: Any) -> Any:
        raise LookupError("mine")

    client = noop.TrainingClient()
    session = client.start_session({"model": "any"})
    with pytest.raises(LookupError, match="mine"):
        client.forward_backward_custom(session, [_DATUM], broken).result()
    client.close()


def test_a_sampler_knows_what_a_saved_session_learned(tmp_path: Path) -> None:
    client = noop.TrainingClient()
    session = client.start_session({"model": "any"})
    client.forward_backward(session, [_DATUM])
    client.optim_step(session, 0.5)
    saved = client.save_weights_for_sampler(session, str(tmp_path / "w")).result()
    trained = client.forward(session, [_DATUM]).result().loss_fn_outputs[0]["logprobs"].tolist()
    client.close()
    sampler = noop.SamplingClient()
    plain = sampler.start_session({"model": "any"})
    tuned = sampler.start_session({"model": "any", "checkpoint_path": saved})
    before, after = (sampler.compute_logprobs(s, [1, 2, 3]).result() for s in (plain, tuned))
    assert after[1:] == pytest.approx(trained[:2])
    assert all(b < a for b, a in zip(before[1:], after[1:], strict=True) if a and b)


def test_a_sampler_stops_at_text() -> None:
    sampler = noop.SamplingClient()
    session = sampler.start_session({"model": "any"})
    (draw,) = sampler.sample(session, [1], 1, {"max_tokens": 99, "stop": ["er"]}).result()
    assert noop.ByteTokenizer().decode(draw.tokens) == "answer"
    assert draw.stop_reason == "stop"


@given(st.text())
def test_the_tokenizer_keeps_every_text(text: str) -> None:
    tokenizer = noop.ByteTokenizer()
    for whole in (text, f"<|im_start|>{text}<|im_end|>\n"):
        tokens = tokenizer.encode(whole)
        assert tokenizer.decode(tokens) == whole
        assert all(0 <= token < len(tokenizer) for token in tokens)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}
        ),
        max_size=3,
    ),
    st.booleans(),
)
def test_the_template_is_what_its_jinja_says(messages: Any, add: bool) -> None:
    tokenizer = noop.ByteTokenizer()
    environment = jinja2.Environment(newline_sequence="\n", keep_trailing_newline=True)
    template = environment.from_string(tokenizer.chat_template)
    want = template.render(messages=messages, add_generation_prompt=add)
    got = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add)
    assert got == want
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=add) == tokenizer.encode(
        want
    )


def test_the_tokenizer_refuses_unknown_tokens() -> None:
    with pytest.raises(ValueError, match="got 259"):
        noop.ByteTokenizer().decode([259])
    assert noop.ByteTokenizer().convert_tokens_to_ids("<|im_end|>") == 258
    assert noop.ByteTokenizer().convert_tokens_to_ids("two") is None


def test_rows_are_answers_to_sums_and_no_row_comes_twice() -> None:
    store = noop.DatasetStore(size=40)
    rows = [
        row
        for split in ("train", "validation", "test")
        for row in store.to_list(store.load_dataset("sums", split=split))
    ]
    assert len(rows) == 40 + 10 + 10
    assert len({row["prompt"][0]["content"] for row in rows}) == len(rows)
    assert rows[3]["prompt"] == [{"role": "user", "content": "What is 3 plus 1?"}]
    assert rows[3]["completion"] == [{"role": "assistant", "content": "4"}]


def test_preference_rows_prefer_the_right_answer() -> None:
    store = noop.DatasetStore(size=40)
    for row in store.to_list(store.load_dataset("sums", kind="preference")):
        assert row["chosen"] != row["rejected"]
        left, right = (int(word) for word in row["prompt"][0]["content"][8:-1].split(" plus "))
        assert row["chosen"][0]["content"] == str(left + right)
    with pytest.raises(ConfigError, match="sft, preference, got 'dpo'"):
        store.load_dataset("sums", kind="dpo")


def test_evaluation_is_exact_arithmetic() -> None:
    rows = [
        {"label": "a", "prediction": "a", "loss": 1.0},
        {"label": "a", "prediction": "b", "loss": 2.0},
        {"label": "b", "prediction": "b", "loss": 3.0},
        {"label": "c", "prediction": "b", "loss": 2.0},
    ]
    metrics = ("accuracy", "precision", "recall", "f1", "loss", "perplexity")
    got = noop.Evaluator().evaluate(None, rows, metrics=metrics)
    # By hand: a has precision 1, recall 1/2; b 1/3, 1; c was never predicted.
    want = {
        "accuracy": 2 / 4,
        "precision": (1 + 1 / 3 + 0) / 3,
        "recall": (1 / 2 + 1 + 0) / 3,
        "f1": (2 / 3 + 1 / 2 + 0) / 3,
        "loss": 2.0,
        "perplexity": math.exp(2.0),
        "sample_count": 4,
    }
    assert got == pytest.approx(want)
    with pytest.raises(DataError, match="row 1 must have 'prediction'"):
        noop.Evaluator().evaluate(None, [rows[0], {"label": "a"}])


def test_a_completer_says_what_it_was_told_to() -> None:
    asked = [{"role": "user", "content": "hi"}]
    assert noop.Completer().complete(asked).text == "You said: hi"
    assert noop.Completer("fixed").complete(asked).text == "fixed"
    counting = noop.Completer(lambda messages: str(len(messages)))
    assert counting.complete(asked).text == "1"
    assert noop.Completer("one two").complete(asked, stop=" ").text == "one"
    assert noop.Completer("one two").complete(asked, max_tokens=3).finish_reason == "length"


def test_a_hub_cleans_up_behind_itself(tmp_path: Path) -> None:
    hub = noop.HubClient({"org/m": {"a.txt": b"1"}})
    path = Path(hub.download("org/m", "a.txt"))
    hub.close()
    assert not path.exists()
    kept = noop.HubClient({"org/m": {"a.txt": b"1"}}, cache_dir=str(tmp_path))
    assert Path(kept.download("org/m", "a.txt")).is_relative_to(tmp_path)
    with pytest.raises(PortError, match="did you mean 'org/m'"):
        kept.list_files("org/n")


def test_a_hub_without_repositories_has_any_model() -> None:
    hub = noop.HubClient()
    assert hub.list_files("any/model") == ["config.json"]
    assert Path(hub.snapshot("any/model"), "config.json").read_bytes()
    with pytest.raises(PortError, match="weights"):
        hub.download("any/model", "weights.bin")
    hub.close()
