"""`sft` on data that is read some rows at a time: all of it is trained, in order, within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import files, noop
from crucible_kitchen.errors import ConfigError, StageError
from crucible_kitchen.recipes import SupervisedFineTuning


class Store(files.DatasetStore):
    """Writes down how many rows were read at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def to_list(self, dataset: Any) -> list[Any]:
        rows = super().to_list(dataset)
        self.read.append(len(rows))
        return rows


@pytest.fixture
def run(tmp_path, recorder):
    """Train some of 25 rows, and tell what was asked of the client and the store."""
    path = tmp_path / "rows.jsonl"

    def run(count=25, bad=None, **config):
        rows = [{"prompt": f"row {n}?", "completion": str(n)} for n in range(count)]
        if bad is not None:
            rows[bad] = {"question": "?"}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        client, store = recorder(), Store()
        given = {"model": "none", "dataset": str(path), "samples": 0, "eval_every": 0, **config}
        adapters = {"training_client": client, "dataset_store": store}
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        result = ck.run("sft", given, adapters, run_dir=folder, handlers=())
        return texts(client), store.read, result

    return run


def texts(client) -> list[list[str]]:
    decode = noop.ByteTokenizer().decode
    return [
        [decode(datum.model_input.to_ints()).split("\n")[1].split("?")[0] for datum in datums]
        for name, datums in client.log
        if name == "forward_backward"
    ]


def numbers(batches) -> list[int]:
    return [int(text.split()[1]) for batch in batches for text in batch]


def test_windows_follow_each_other_and_begin_again_behind_the_last_row(run) -> None:
    batches, read, result = run(
        max_steps=8, batch_size=5, window_rows=10, eval_rows=0, order="as_given"
    )
    assert numbers(batches) == [*range(25), *range(15)]
    assert [len(batch) for batch in batches] == [5] * 8
    assert max(read) == 10, "no more rows are read at a time"
    starts = [record.value for record in result.metrics.history("window_start")]
    assert starts == [10, 20, 0, 10]
    assert result.context.state.step == 8


def test_rows_are_shuffled_within_their_window_and_anew_each_time(run) -> None:
    batches, _, _ = run(max_steps=10, batch_size=5, window_rows=10, eval_rows=0)
    seen = numbers(batches)
    assert sorted(seen[:10]) == list(range(10)) != seen[:10]
    assert sorted(seen[10:20]) == list(range(10, 20))
    again, _, _ = run(max_steps=10, batch_size=5, window_rows=10, eval_rows=0)
    assert numbers(again) == seen
    assert seen[25:35] != seen[:10], "the first window comes in another order"
    assert sorted(seen[25:35]) == list(range(10))


def test_held_out_rows_are_of_the_first_window_and_are_never_trained(run) -> None:
    batches, _, result = run(max_steps=9, batch_size=5, window_rows=10, eval_rows=3)
    held_out = set(result.context.state.held_out_places)
    assert len(held_out) == 3
    assert held_out < set(range(10))
    seen = numbers(batches)
    assert not held_out & set(seen)
    assert set(seen) == set(range(25)) - held_out


def test_no_window_is_read_that_will_not_be_trained(run) -> None:
    _, read, result = run(max_steps=2, batch_size=5, window_rows=10, eval_rows=0)
    assert read == [10]
    assert "window_start" not in result.metrics.names()


def test_a_bound_of_rows_holds_for_windows_too(run) -> None:
    batches, _, _ = run(
        max_steps=5, batch_size=5, window_rows=10, max_rows=15, eval_rows=0, order="as_given"
    )
    assert numbers(batches) == [*range(15), *range(10)]


def test_a_bad_row_is_named_when_its_window_comes(run) -> None:
    with pytest.raises(StageError, match=r"reads_on/prepare .*: row 17 must have messages"):
        run(max_steps=8, batch_size=5, window_rows=10, eval_rows=0, bad=17)


def test_packs_and_windows_go_together(run) -> None:
    batches, _, result = run(
        max_steps=6, window_rows=10, eval_rows=0, max_length=64, pack_tokens=128
    )
    assert result.context.state.step == 6
    assert len(batches) == 6


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"epochs": 1}, "window_rows must come with max_steps and without epochs"),
        ({"epochs": 1, "max_steps": 5}, "window_rows must come with max_steps and without epochs"),
        ({"max_steps": 5, "dataset": [{"name": "a"}]}, "window_rows must be null for a list"),
        ({"max_steps": 5, "window_rows": 0}, "window_rows must be at least 1"),
    ],
)
def test_windows_need_an_end_and_one_data_set(config, said) -> None:
    with pytest.raises(ConfigError) as caught:
        SupervisedFineTuning.Config.parse({"window_rows": 10, **config}, recipe="sft")
    assert said in str(caught.value)


@pytest.fixture
def preferences(tmp_path, recorder):
    """Train a recipe on some of 25 pairs, and tell which, and what was asked of the store."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"row {n}?", "chosen": "yes", "rejected": "no"} for n in range(25)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(recipe, **config):
        client, store = recorder(), Store()
        given = {"model": "none", "dataset": str(path), "samples": 0, "eval_every": 0, **config}
        adapters = {"training_client": client, "dataset_store": store}
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        result = ck.run(recipe, given, adapters, run_dir=folder, handlers=())
        client.log = [("forward_backward", about) for name, about in client.log if name == "custom"]
        return texts(client), store.read, result

    return run


@pytest.mark.parametrize("recipe", ["dpo", "reward"])
def test_windows_of_preferences_follow_each_other(preferences, recipe) -> None:
    batches, read, result = preferences(
        recipe, max_steps=8, batch_size=5, window_rows=10, eval_rows=0, order="as_given"
    )
    assert numbers(batches)[::2] == [*range(25), *range(15)]
    assert max(read) == 10
    assert [record.value for record in result.metrics.history("window_start")] == [10, 20, 0, 10]


def test_the_reference_of_a_later_window_is_the_model_as_it_started(preferences) -> None:
    """Noop's losses fall by steps alone, so every pair is as likely under the reference."""
    _, _, result = preferences(
        "dpo", max_steps=5, batch_size=5, window_rows=10, eval_rows=3, order="as_given"
    )
    history = {
        name: [r.value for r in result.metrics.history(name)]
        for name in ("reference_answers_computed", "rewards_chosen")
    }
    # Held-out pairs are asked for once, with the first window.
    assert history["reference_answers_computed"] == [20, 20, 10]
    assert history["rewards_chosen"][0] == pytest.approx(0.0, abs=1e-12)
    rewards = history["rewards_chosen"]
    assert rewards == sorted(rewards), "no window begins again at 0"
    assert rewards[-1] > rewards[0]


def test_answers_with_a_label_find_each_other_within_a_window(tmp_path, recorder) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": f"row {n // 2}?", "completion": "yes" if n % 2 else "no", "label": bool(n % 2)}
        for n in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    client = recorder()
    config = {
        "model": "none",
        "dataset": str(path),
        "samples": 0,
        "eval_rows": 1,
        "order": "as_given",
    }
    config |= {"window_rows": 4, "batch_size": 1, "max_steps": 12}
    ck.run("dpo", config, {"training_client": client}, run_dir=tmp_path / "run", handlers=())
    client.log = [("forward_backward", about) for name, about in client.log if name == "custom"]
    seen = numbers(texts(client))[::2]
    held_out = {0, 1} - set(seen[:1])
    assert seen == [n for n in [*range(10), *range(10)] if n not in held_out][:12]
