"""How a training ends and what it keeps: early stopping, the best model, time; on noop adapters."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from crucible_kitchen.errors import ConfigError, StageError
from crucible_kitchen.recipes import RECIPES, SupervisedFineTuning
from crucible_kitchen.stages.evaluate import weight_of

# Held-out losses at steps 0, 1, 2, ...: the best is at step 3.
LOSSES = (5.0, 3.0, 2.5, 2.0, 2.2, 2.1, 2.05, 2.3, 2.4)


@pytest.fixture
def client(recorder):
    """A client whose held-out loss is what `LOSSES` says."""

    class Client(recorder):
        def load_checkpoint(self, session, path):
            self.log.append(("load_checkpoint", path))
            super().load_checkpoint(session, path)

        def forward(self, session, datums, *rest):
            future = super().forward(session, datums, *rest)
            loss = LOSSES[self.names().count("forward") - 1]
            total = loss * sum(weight_of(datum) for datum in datums)
            result = future.result()
            metrics = {**result.metrics, "loss:sum": total}
            return type(future).resolved(replace(result, metrics=metrics))

    return Client()


def values(result, name):
    return [(record.step, record.value) for record in result.metrics.history(name)]


def options(**more):
    return {"max_steps": 8, "batch_size": 2, "eval_rows": 2, "eval_every": 1, **more}


def test_it_stops_when_the_held_out_loss_no_longer_falls(sft, client) -> None:
    result = sft(client, **options(early_stopping=2))
    state = result.context.state
    assert (state.step, state.best_step) == (5, 3)
    assert state.stop_reason == "eval_loss has not fallen for 2 evaluations"
    assert [step for step, _ in values(result, "eval_loss")] == [0, 1, 2, 3, 4, 5], "none twice"
    assert client.names().count("optim_step") == 5
    assert (result.run_dir / "adapter").exists()


def test_a_gain_that_is_too_small_is_none(sft, client) -> None:
    result = sft(client, **options(early_stopping=2, early_stopping_gain=0.9))
    # 3.0 is 2 below 5.0; 2.5 is not enough below that, and 2.0 is.
    assert (result.context.state.step, result.context.state.best_step) == (5, 3)


def test_a_larger_gain_stops_sooner(sft, client) -> None:
    result = sft(client, **options(early_stopping=2, early_stopping_gain=1.5))
    assert (result.context.state.step, result.context.state.best_step) == (3, 1)


def test_without_it_all_steps_are_taken(sft, client) -> None:
    result = sft(client, **options())
    assert result.context.state.step == 8
    assert result.context.state.stop_reason == ""


def test_the_best_model_is_kept_and_is_what_the_run_ends_with(sft, client) -> None:
    result = sft(client, **options(save_best=True, save_every=1, keep_last=2))
    kept = sorted(path.name for path in (result.run_dir / "checkpoints").iterdir())
    assert kept == ["best", "step_000007", "step_000008"]
    saved = [
        path for name, path in client.log if name == "save_checkpoint" and path.endswith("best")
    ]
    assert len(saved) == 4, "at steps 0, 1, 2 and 3"
    loaded = [path for name, path in client.log if name == "load_checkpoint"]
    assert loaded == [str(result.run_dir / "checkpoints" / "best")]
    assert result.metrics.latest("restored_step") == 3
    assert result.metrics.latest("restored_eval_loss") == pytest.approx(2.0)


def test_a_last_model_that_is_the_best_is_not_loaded_again(sft, client) -> None:
    result = sft(client, **options(save_best=True, max_steps=3))
    assert "load_checkpoint" not in client.names()
    assert "restored_step" not in result.metrics.names()


def test_both_together_end_with_the_best(sft, client) -> None:
    result = sft(client, **options(save_best=True, early_stopping=3))
    assert result.context.state.step == 6
    assert result.metrics.latest("restored_step") == 3


@pytest.mark.parametrize("asked", [{"early_stopping": 2}, {"save_best": True}])
def test_what_goes_by_held_out_rows_needs_some(sft, asked) -> None:
    with pytest.raises(StageError, match="goes by the held-out loss, and no rows") as caught:
        # A fifth of four rows is none.
        sft(**options(max_rows=4, eval_rows=None, **asked))
    assert isinstance(caught.value.__cause__, ConfigError)


def test_time_that_is_up_ends_the_run_behind_its_step(sft, recorder) -> None:
    class Slow(recorder):
        def optim_step(self, session, params):
            time.sleep(0.06)
            return super().optim_step(session, params)

    client = Slow()
    result = sft(client, **options(max_time=0.1, eval_every=0, samples=0))
    state = result.context.state
    assert 1 <= state.step <= 2
    assert state.stop_reason == "max_time = 0.1 s is up"
    assert [step for step, _ in values(result, "eval_loss")] == [0, state.step]
    assert (result.run_dir / "adapter").exists()


def test_the_last_step_needs_no_reason(sft) -> None:
    result = sft(**options(max_time=0.001, max_steps=1, eval_every=0))
    assert result.context.state.stop_reason == ""


def test_memory_is_told_at_every_step(sft) -> None:
    told = values(sft(**options()), "memory_bytes")
    assert [step for step, _ in told] == list(range(1, 9))
    assert all(10e6 < value < 1e12 for _, value in told)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90", 90), ("90s", 90), ("1.5s", 1.5), ("15m", 900), ("1h30m", 5400), ("2d", 172800), (7, 7)],
)
def test_time_is_seconds_or_text(given, seconds) -> None:
    config = SupervisedFineTuning.Config.parse({"max_time": given}, recipe="sft")
    assert config.max_time == seconds
    again = SupervisedFineTuning.Config.parse(config.model_dump(), recipe="sft")
    assert again == config


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"max_time": "soon"}, "max_time must be seconds, or text such as 90s, 15m, 1h30m"),
        ({"max_time": ""}, "max_time must be seconds"),
        ({"max_time": "0s"}, "max_time must be seconds"),
        ({"max_time": 0}, "max_time must be above 0, got 0"),
        ({"schedule_power": 2.0}, "schedule_power must be null for schedule='cosine'"),
        ({"schedule": "polynomial", "schedule_power": 0.0}, "schedule_power must be above 0"),
        ({"schedule_decay": 0.5}, "schedule_decay must be null for schedule='cosine'"),
        ({"schedule": "wsd", "schedule_decay": 1.5}, "schedule_decay must be whole steps"),
        ({"schedule": "constant", "min_learning_rate": 1e-6}, "min_learning_rate must be 0 for"),
        ({"min_learning_rate": 1.0}, "min_learning_rate must be at most learning_rate"),
        ({"early_stopping": 1, "eval_every": 0}, "eval_every must be above 0 for early_stopping=1"),
        ({"early_stopping": 1, "eval_rows": 0}, "eval_rows must be above 0 for early_stopping"),
        ({"save_best": True, "eval_rows": 0}, "eval_rows must be above 0 for save_best"),
        ({"early_stopping_gain": 0.1}, "early_stopping_gain must be 0 without early_stopping"),
        ({"save_best": 1}, "save_best must be true or false, got 1"),
    ],
)
def test_options_that_nothing_would_read_are_refused(name, config, said) -> None:
    with pytest.raises(ConfigError) as caught:
        RECIPES[name].Config.parse(config, recipe=name)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_field_of_every_recipe_is_read_by_its_workflow(name) -> None:
    from crucible_kitchen.graph.flow import analyse

    recipe = RECIPES[name]
    assert set(recipe.Config.model_fields) - analyse(recipe.workflow).keys_read() == set()


@pytest.mark.parametrize("option", ["gradient_checkpointing", "fsdp"])
def test_the_session_is_told_how_to_save_memory(sft, recorder, option) -> None:
    client = recorder()
    sft(client, max_steps=1, **{option: True})
    started = next(call for call in client.calls if call.method == "start_session")
    assert getattr(started.arguments["config"], option) is True
