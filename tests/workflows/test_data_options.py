"""Mixtures, packs and orders as a recipe is told of them; on noop adapters."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import files, noop
from crucible_kitchen.bootstrap import defaults
from crucible_kitchen.errors import ConfigError, DataError, StageError
from crucible_kitchen.recipes import RECIPES, SupervisedFineTuning


def write(path: Path, count: int, word: str) -> str:
    rows = [
        {"prompt": f"{word} {n}?", "completion": f"{word} " * (1 + n % 5)} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(tmp_path):
    def run(client, dataset, **config):
        return ck.run(
            "sft",
            {"model": "none", "dataset": dataset, "samples": 0, "eval_every": 0, **config},
            adapters={"training_client": client},
            run_dir=tmp_path / "run",
            handlers=(),
        )

    return run


def texts(client, call="forward_backward") -> list[list[str]]:
    """What was asked in each batch."""
    decode = noop.ByteTokenizer().decode
    return [
        [decode(datum.model_input.to_ints()).split("\n")[1].split("<")[0] for datum in datums]
        for name, datums in client.log
        if name == call
    ]


def test_a_mixture_trains_its_data_sets_by_their_weights(run, tmp_path, recorder) -> None:
    client = recorder()
    many, few = write(tmp_path / "many.jsonl", 12, "many"), write(tmp_path / "few.jsonl", 4, "few")
    parts = [{"name": many, "weight": 3.0}, {"name": few, "weight": 2.0}]
    run(client, parts, epochs=1, eval_rows=0)
    asked = Counter(text for batch in texts(client) for text in batch)
    assert sum(n for text, n in asked.items() if text.startswith("many")) == 12
    assert sum(n for text, n in asked.items() if text.startswith("few")) == 8
    assert set(asked.values()) == {1, 2}


def test_a_mixture_without_weights_is_all_rows_and_holds_out_some_of_all(
    run, tmp_path, recorder
) -> None:
    client = recorder()
    names = [write(tmp_path / f"{word}.jsonl", 10, word) for word in ("one", "two")]
    run(client, [{"name": name} for name in names], epochs=1, eval_rows=10)
    held_out = {text for batch in texts(client, "forward") for text in batch}
    trained = [text for batch in texts(client) for text in batch]
    assert len(held_out) == 10
    assert len(trained) == len(set(trained)) == 10
    assert not held_out & set(trained)
    assert {text.split()[0] for text in held_out} == {"one", "two"}


def test_a_mixture_may_be_of_several_stores(tmp_path) -> None:
    own = write(tmp_path / "own.jsonl", 4, "own")
    parts = [{"name": "builtin:python-docs"}, {"name": own}]
    config = SupervisedFineTuning.Config.parse({"dataset": parts}, recipe="sft")
    owned: list[Any] = []
    store = defaults.default_dataset_store(config.dataset, owned)
    assert len(store.to_list(store.load_dataset(own))) == 4
    with pytest.raises(DataError, match="no built-in data set 'builtin:python-dcs'; did"):
        owned[0].load_dataset("builtin:python-dcs")
    assert len(owned) == 2
    alone = SupervisedFineTuning.Config.parse({"dataset": parts[1:]}, recipe="sft")
    assert defaults.default_dataset_store(alone.dataset, owned) is files.DatasetStore
    assert len(owned) == 2


def test_a_bad_row_of_a_mixture_is_named_with_its_data_set(run, tmp_path, recorder) -> None:
    good, bad = write(tmp_path / "good.jsonl", 3, "a"), tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "q", "completion": "a"}\n{"question": "q"}\n')
    with pytest.raises(StageError, match=r"row 1 of .*bad\.jsonl must have messages"):
        run(recorder(), [{"name": good}, {"name": str(bad)}], max_steps=1, eval_rows=0)


def test_packs_hold_no_more_tokens_than_told_and_every_row_is_trained_once(
    run, tmp_path, recorder
) -> None:
    client = recorder()
    name = write(tmp_path / "rows.jsonl", 30, "row")
    result = run(
        client,
        name,
        epochs=1,
        eval_rows=0,
        max_length=128,
        pack_tokens=256,
        gradient_accumulation=2,
    )
    batches = [datums for call, datums in client.log if call == "forward_backward"]
    loads = [sum(datum.model_input.length for datum in datums) for datums in batches]
    assert max(loads) <= 256
    assert sum(loads) / len(loads) > 0.8 * 256
    assert sum(len(datums) for datums in batches) == 30
    steps = client.names().count("optim_step")
    assert steps == result.context.state.total_steps == -(-len(batches) // 2)


def test_rows_can_keep_their_order(run, tmp_path, recorder) -> None:
    client = recorder()
    name = write(tmp_path / "rows.jsonl", 7, "row")
    run(client, name, epochs=2, eval_rows=0, batch_size=3, order="as_given")
    once = [[f"row {n}?" for n in part] for part in ((0, 1, 2), (3, 4, 5), (6,))]
    assert texts(client) == once * 2


def test_rows_of_like_length_share_a_step(run, tmp_path, recorder) -> None:
    client = recorder()
    name = write(tmp_path / "rows.jsonl", 25, "row")
    run(client, name, epochs=1, eval_rows=0, batch_size=5, order="by_length")
    for name, datums in client.log:
        if name == "forward_backward":
            lengths = [datum.model_input.length for datum in datums]
            assert max(lengths) - min(lengths) <= 5


class Store(files.DatasetStore):
    """Writes down how it was asked, and can make a stream of rows without an end."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []

    def load_dataset(self, name, split="train", limit=None, **options):
        self.asked.append({"name": name, "split": split, "limit": limit, **options})
        return super().load_dataset(name, split, limit)


def load(tmp_path, dataset, **config):
    store = Store()
    given = {"model": "none", "dataset": dataset, "samples": 0, "max_steps": 1, **config}
    adapters = {"training_client": noop.TrainingClient, "dataset_store": store}
    result = ck.run("sft", given, adapters, run_dir=tmp_path / "run", handlers=())
    return store.asked, result


def test_options_of_a_data_set_reach_its_store(tmp_path) -> None:
    name = write(tmp_path / "rows.jsonl", 5, "row")
    asked, _ = load(tmp_path, name, dataset_options={"streaming": True, "config": "main"})
    assert asked == [
        {"name": name, "split": "train", "limit": None, "streaming": True, "config": "main"}
    ]


def test_each_data_set_of_a_mixture_has_options_of_its_own(tmp_path) -> None:
    names = [write(tmp_path / f"{word}.jsonl", 3, word) for word in ("one", "two")]
    parts = [{"name": names[0], "options": {"config": "a"}}, {"name": names[1]}]
    asked, _ = load(tmp_path, parts)
    assert [entry.get("config") for entry in asked] == ["a", None]


def test_no_more_rows_are_read_than_wanted(tmp_path) -> None:
    name = write(tmp_path / "rows.jsonl", 50, "row")
    asked, result = load(tmp_path, name, max_rows=6, eval_rows=2)
    assert asked[0]["limit"] == 6
    assert result.metrics.latest("train_rows") == 4
    assert result.metrics.latest("held_out_rows") == 2


def test_another_split_is_read_no_further_either(tmp_path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", 20, split)
    _, result = load(tmp_path, str(folder), max_rows=6, eval_split="test", eval_rows=20)
    assert result.metrics.latest("train_rows") == 6
    assert result.metrics.latest("held_out_rows") == 6


def test_answers_with_a_label_are_trained_in_pairs_and_held_out_in_pairs(tmp_path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": f"{n}?", "completion": "yes" if good else "no", "label": good}
        for good in (True, False)
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"model": "none", "dataset": str(path), "epochs": 1, "eval_rows": 2, "samples": 0}
    adapters = {"training_client": noop.TrainingClient}
    result = ck.run("dpo", config, adapters, run_dir=tmp_path / "run", handlers=())
    assert result.metrics.latest("train_rows") == 6
    assert result.metrics.latest("held_out_rows") == 2
    rows.append({"prompt": "alone?", "completion": "yes", "label": True})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StageError, match="row 16: its prompt has only good answers"):
        ck.run("dpo", config, adapters, run_dir=tmp_path / "failed", handlers=())
    config["unmatched"] = "drop"
    result = ck.run("dpo", config, adapters, run_dir=tmp_path / "dropped", handlers=())
    assert result.metrics.latest("unmatched_rows") == 1


def test_preferences_are_packed_by_pairs(tmp_path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": "yes " * (n % 6), "rejected": "no"} for n in range(1, 20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    client = noop.TrainingClient()
    config = {"model": "none", "dataset": str(path), "epochs": 1, "eval_rows": 0, "samples": 0}
    result = ck.run(
        "dpo",
        {**config, "max_length": 80, "pack_tokens": 300, "truncation": "drop"},
        {"training_client": client},
        run_dir=tmp_path / "run",
        handlers=(),
    )
    asked = [c.arguments["datums"] for c in client.calls if c.method == "forward_backward_custom"]
    assert sum(asked) == 2 * result.metrics.latest("train_rows")
    assert all(count % 2 == 0 for count in asked)
    assert all(record.value <= 300 for record in result.metrics.history("tokens"))
    assert max(asked) > 2


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"dataset": []}, "dataset must"),
        ({"dataset": [{"name": "a"}, {"name": "a"}]}, "a list of data sets that differ"),
        ({"dataset": [{"name": "a", "weight": 1.0}, {"name": "b"}]}, "all or none have a weight"),
        (
            {"dataset": [{"name": "a", "weight": 0.0}]},
            "\n  - dataset.0.weight must be above 0, got 0.0",
        ),
        (
            {"dataset": [{"name": "a", "wieght": 1.0}]},
            "\n  - unknown key 'wieght' of dataset.0; did you mean 'weight'?",
        ),
        ({"dataset": [{"weight": 1.0}]}, "\n  - dataset.0.name must be given, got {'weight': 1.0}"),
        ({"dataset": ["a"]}, "\n  - dataset.0 must be a mapping, got 'a'"),
        ({"dataset": [{"name": "a"}], "dataset_options": {"config": "x"}}, "dataset_options must"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"pack_tokens": 0}, "pack_tokens must be at least 1"),
        ({"pack_tokens": 500, "max_length": 512}, "pack_tokens must be at least"),
        ({"pack_tokens": 4096, "order": "by_length"}, "order must not be 'by_length'"),
        ({"order": "random"}, "order must be 'shuffled', 'by_length' or 'as_given'"),
    ],
)
def test_a_wrong_option_is_refused(name, config, said) -> None:
    with pytest.raises(ConfigError) as caught:
        RECIPES[name].Config.parse(config, recipe=name)
    assert said in str(caught.value)


def test_a_mixture_survives_being_written_and_read() -> None:
    parts = [{"name": "builtin:python-docs", "weight": 1.5}, {"name": "builtin:b", "weight": 1.0}]
    config = SupervisedFineTuning.Config.parse({"dataset": parts}, recipe="sft")
    assert config.eval_split == "validation", "all of it is built in"
    again = SupervisedFineTuning.Config.parse(json.loads(config.model_dump_json()), recipe="sft")
    assert again == config
    mixed = [*parts[:1], {"name": "rows.jsonl", "weight": 2.0}]
    config = SupervisedFineTuning.Config.parse({"dataset": mixed}, recipe="sft")
    assert config.eval_split is None
