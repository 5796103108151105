"""`sft` from end to end on noop adapters: what it asks of the ports, when, and how it fails."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import noop
from crucible_kitchen.errors import DataError, PortError, StageError
from crucible_kitchen.ports import Future
from crucible_kitchen.types import AdamParams
from crucible_kitchen.workflows._training import epochs, should_evaluate, should_save


def steps_of(result, name):
    return [record.step for record in result.metrics.history(name)]


def values_of(result, name):
    return [record.value for record in result.metrics.history(name)]


def test_it_learns_and_leaves_its_folder_behind(sft) -> None:
    result = sft(epochs=2, batch_size=2, save_every=3)
    losses = values_of(result, "eval_loss")
    assert losses[-1] < losses[0] - 0.3
    names = {path.name for path in result.run_dir.iterdir()}
    assert names >= {
        "config.json",
        "metrics.jsonl",
        "events.jsonl",
        "samples.json",
        "report.html",
        "adapter",
        "checkpoints",
    }
    (one, two) = json.loads((result.run_dir / "samples.json").read_text())
    assert set(one) == {"messages", "wanted", "before", "after"}
    assert one["wanted"].startswith("It is")
    assert one != two


def test_every_step_has_every_metric(sft) -> None:
    result = sft(max_steps=3, batch_size=2)
    for name in (
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "trained_tokens",
        "tokens_per_second",
    ):
        assert steps_of(result, name) == [1, 2, 3], name
    assert all(
        t > w > 0
        for t, w in zip(
            values_of(result, "tokens"), values_of(result, "trained_tokens"), strict=True
        )
    )


def test_an_epoch_sees_every_row_once_the_tail_too(sft, recorder) -> None:
    client = recorder()
    result = sft(client, epochs=2, batch_size=3)
    batches = [datums for name, datums in client.log if name == "forward_backward"]
    assert [len(batch) for batch in batches] == [3, 3, 2] * 2
    for epoch in (batches[:3], batches[3:]):
        seen = [tuple(d.model_input.to_ints()) for batch in epoch for d in batch]
        assert len(set(seen)) == 8
    first, second = (
        [d.model_input.to_ints() for b in e for d in b] for e in (batches[:3], batches[3:])
    )
    assert first != second, "each epoch has an order of its own"
    assert result.context.state.step == 6


@pytest.mark.parametrize("max_steps", [1, 4, 5, 9])
def test_max_steps_is_exact_whatever_the_epochs_are(sft, max_steps, recorder) -> None:
    client = recorder()
    result = sft(client, max_steps=max_steps, batch_size=2)
    assert client.names().count("optim_step") == max_steps
    assert result.context.state.step == max_steps


def test_the_smaller_of_epochs_and_max_steps_ends_the_run(sft, recorder) -> None:
    client = recorder()
    sft(client, epochs=1, max_steps=100, batch_size=2)
    assert client.names().count("optim_step") == 4


def test_it_evaluates_first_last_and_at_multiples_and_never_twice(sft, recorder) -> None:
    client = recorder()
    result = sft(client, max_steps=6, eval_every=3, batch_size=2)
    assert steps_of(result, "eval_loss") == [0, 3, 6]
    assert client.names().count("forward") == 3


def test_it_saves_at_multiples_and_keeps_the_last(sft, recorder) -> None:
    client = recorder()
    result = sft(client, max_steps=6, save_every=2, keep_last=2, batch_size=2)
    saved = [Path(path).name for name, path in client.log if name == "save_checkpoint"]
    assert saved == ["step_000002", "step_000004", "step_000006"]
    kept = sorted(path.name for path in (result.run_dir / "checkpoints").iterdir())
    assert kept == saved[1:]


def test_micro_batches_change_no_number(sft, tmp_path, recorder) -> None:
    whole, parts = recorder(), recorder()
    one = values_of(sft(whole, max_steps=2, batch_size=4), "loss")
    (tmp_path / "run").rename(tmp_path / "first")
    two = values_of(sft(parts, max_steps=2, batch_size=1, gradient_accumulation=4), "loss")
    assert one == pytest.approx(two, rel=1e-6)
    assert parts.names().count("forward_backward") == 8
    assert parts.names().count("optim_step") == 2


def test_weights_of_a_step_sum_to_one(sft, recorder) -> None:
    client = recorder()
    sft(client, max_steps=1, batch_size=2, gradient_accumulation=2)
    batches = [datums for name, datums in client.log if name == "forward_backward"]
    total = sum(
        float(np.sum(d.loss_fn_inputs["weights"].numpy(), dtype=np.float64))
        for batch in batches
        for d in batch
    )
    assert len(batches) == 2
    assert total == pytest.approx(1.0, abs=1e-6)


def test_held_out_rows_are_never_trained(sft, recorder) -> None:
    client = recorder()
    sft(client, epochs=3, batch_size=2)

    def inputs(call):
        found = [datums for name, datums in client.log if name == call]
        return {tuple(d.model_input.to_ints()) for datums in found for d in datums}

    assert len(inputs("forward")) == 2
    assert len(inputs("forward_backward")) == 8
    assert not inputs("forward") & inputs("forward_backward")


def test_the_optimizer_gets_what_the_configuration_says(sft, recorder) -> None:
    client = recorder()
    sft(
        client,
        max_steps=4,
        learning_rate=0.01,
        schedule="linear",
        warmup=1,
        weight_decay=0.1,
        adam_beta1=0.8,
        adam_beta2=0.99,
        adam_eps=1e-8,
        grad_clip_norm=0.5,
    )
    params = [params for name, params in client.log if name == "optim_step"]
    assert [p.learning_rate for p in params] == pytest.approx([0.01, 0.01, 0.01 * 2 / 3, 0.01 / 3])
    of_adam = AdamParams(0.0, 0.8, 0.99, 1e-8, weight_decay=0.1, grad_clip_norm=0.5)
    assert {replace(p, learning_rate=0.0) for p in params} == {of_adam}


def test_no_held_out_rows_no_evaluation(sft, recorder) -> None:
    client = recorder()
    result = sft(client, max_steps=1, eval_rows=0)
    assert "forward" not in client.names()
    assert "eval_loss" not in result.metrics.names()


def nan_loss_at(step):
    def change(call, number, result):
        if call == "forward_backward" and number == step:
            return replace(result, metrics={**result.metrics, "loss:sum": math.nan})
        return result

    return change


def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(
    sft, tmp_path, recorder
) -> None:
    client = recorder(nan_loss_at(4))
    with pytest.raises(StageError, match=r"loss must be finite, got nan at step 4.*step_000002"):
        sft(client, max_steps=6, save_every=2, batch_size=2)
    assert client.names().count("optim_step") == 3, "the step was not taken"
    assert client.names()[-1] == "close_session"
    assert (tmp_path / "run" / "checkpoints" / "step_000002").is_dir()
    assert "failed" in (tmp_path / "run" / "report.html").read_text()


def test_gradients_that_are_no_numbers_stop_the_run(sft, recorder) -> None:
    def change(call, number, result):
        wrong = call == "optim_step" and number == 2
        return replace(result, grad_norm=math.inf) if wrong else result

    with pytest.raises(StageError, match=r"grad_norm must be finite, got inf at step 2; no check"):
        sft(recorder(change), max_steps=3)


def test_a_checkpoint_that_cannot_be_saved_ends_the_run_and_leaves_the_one_before(
    sft, tmp_path, recorder
) -> None:
    class FullDisk(recorder):
        def save_checkpoint(self, session, path):
            if self.names().count("save_checkpoint") == 1:
                return Future.failed(PortError(f"training_client: no space left for {path}"))
            return super().save_checkpoint(session, path)

    client = FullDisk()
    with pytest.raises(StageError, match="no space left"):
        sft(client, max_steps=4, save_every=1, keep_last=1)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000001"]
    assert client.names()[-1] == "close_session"


def test_a_row_without_a_trained_token_is_named_by_its_place_in_the_file(sft, rows_file) -> None:
    lines = Path(rows_file).read_text().splitlines()
    lines[7] = json.dumps({"messages": [{"role": "user", "content": "no answer"}]})
    Path(rows_file).write_text("\n".join(lines) + "\n")
    with pytest.raises(StageError, match=r"row 7.*no trained token") as caught:
        sft(max_steps=1)
    assert isinstance(caught.value.__cause__, DataError)


def test_an_empty_file_is_a_data_error(sft, rows_file) -> None:
    Path(rows_file).write_text("")
    with pytest.raises(StageError) as caught:
        sft(max_steps=1)
    assert isinstance(caught.value.__cause__, DataError)


def test_holding_out_every_row_is_an_error_that_says_so(sft) -> None:
    with pytest.raises(StageError, match="no row in 'train' beside those that eval_rows=10 holds"):
        sft(max_steps=1, eval_rows=10)


def test_without_a_completer_nothing_is_asked(rows_file, tmp_path) -> None:
    import crucible_kitchen as ck

    result = ck.run(
        "sft",
        {"model": "none", "dataset": rows_file, "max_steps": 1},
        adapters={"training_client": noop.TrainingClient},
        run_dir=tmp_path / "run",
        handlers=(),
    )
    assert result.context.state.samples_after == []


def test_what_asks_nothing_or_too_much_is_passed_over(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    said = {"role": "assistant", "content": "yes"}
    rows = [{"messages": [said]}, {"text": "no"}, {"prompt": "long " * 99, "completion": "yes"}]
    rows += [{"prompt": "Q", "completion": "yes"}] * 5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"model": "none", "dataset": str(path), "eval_rows": 7, "max_steps": 1, "samples": 7}
    adapters = {"training_client": "noop", "completer": "noop"}
    result = ck.run(
        "sft", {**config, "max_length": 99}, adapters, handlers=(), run_dir=tmp_path / "r"
    )
    asked = [sample["messages"] for sample in result.context.state.samples_before]
    assert len(asked) in (4, 5)
    assert all(messages == [{"role": "user", "content": "Q"}] for messages in asked)


@pytest.mark.parametrize(("total", "per_epoch", "count"), [(4, 4, 1), (5, 4, 2), (1, 4, 1)])
def test_epochs_are_as_many_as_the_steps_need(total, per_epoch, count) -> None:
    assert len(epochs(total, per_epoch)) == count


def test_predicates_have_no_off_by_one() -> None:
    assert [s for s in range(1, 9) if should_evaluate(s, 8, 4)] == [4]
    assert [s for s in range(1, 9) if should_save(s, 4)] == [4, 8]
    assert not any(should_evaluate(s, 8, 0) or should_save(s, 0) for s in range(1, 9))
