"""`reward` with a comparator: a model that is shown two answers and says which is better."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import noop
from crucible_kitchen.adapters.local import Comparator, RewardModel
from crucible_kitchen.errors import ConfigError, DataError, StageError
from crucible_kitchen.recipes import RewardModeling
from crucible_kitchen.stages._letters import agreement, letter_losses, letter_scores
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture
def rows():
    return [
        {"prompt": f"Q {n}?", "chosen": f"one {n}", "rejected": f"no! {n}", "margin": 1.0}
        for n in range(16)
    ]


@pytest.fixture
def run(rows, tmp_path):
    def run(client=None, **config):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"model": "none", "dataset": str(path), "comparator": True, **config}
        adapters = {} if client is None else {"training_client": client}
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        return ck.run("reward", given, adapters, run_dir=folder, handlers=())

    return run


def values(result, name):
    return [record.value for record in result.metrics.history(name)]


def test_each_pair_is_asked_in_both_orders_by_cross_entropy(run, recorder) -> None:
    client = recorder()
    result = run(client, max_steps=2, batch_size=2, eval_rows=2, eval_every=1)
    trained = [datums for name, datums in client.log if name == "forward_backward"]
    assert [len(batch) for batch in trained] == [4, 4]
    decode = noop.ByteTokenizer().decode
    for first, last in zip(trained[0][0::2], trained[0][1::2], strict=True):
        for datum, letter in ((first, "A"), (last, "B")):
            text = decode(datum.model_input.to_ints())
            good, bad = text.index("==== Answer A"), text.index("==== Answer B")
            assert ("one" in text[good:bad]) == (letter == "A")
            weights = datum.loss_fn_inputs["weights"].numpy()
            assert weights.nonzero()[0].tolist() == [len(weights) - 1]
            assert weights[-1] == 0.25
            assert decode(datum.loss_fn_inputs["target_tokens"].tolist()[-1:]) == letter
    assert client.calls[0].arguments["config"].head == "vocabulary"
    assert len(values(result, "eval_accuracy")) == len(values(result, "eval_agreement")) == 3
    assert len(values(result, "loss")) == 2
    assert "accuracy" not in result.metrics.names()
    assert client.count("custom") == client.count("score") == 0


def test_it_completes_on_noop_adapters_and_accumulates(run) -> None:
    one = run(noop.TrainingClient(), epochs=1, batch_size=4, eval_rows=4)
    cut = run(noop.TrainingClient(), epochs=1, batch_size=1, gradient_accumulation=4, eval_rows=4)
    assert values(one, "loss") == pytest.approx(values(cut, "loss"), rel=1e-6)
    assert len(json.loads((one.run_dir / "samples.json").read_text())) == 2


def test_a_liking_for_a_letter_cancels() -> None:
    """Log probabilities of a right and a wrong letter, with the better answer first and last."""
    says_a = np.log([[[0.9, 0.1], [0.1, 0.9]]])
    assert letter_scores(says_a).tolist() == pytest.approx([0.0, 0.0])
    assert agreement(says_a) == 0.0
    sure = np.log([[[0.8, 0.2], [0.8, 0.2]]])
    better, worse = letter_scores(sure)
    assert better - worse == pytest.approx(math.log(4))
    assert letter_losses(sure).tolist() == pytest.approx([-math.log(0.8)])
    assert agreement(sure) == 1.0


def test_a_tiny_model_learns_to_say_which_is_better(run, tmp_path) -> None:
    model = tiny_llama(tmp_path / "tiny")
    result = run(
        model=model,
        epochs=12,
        batch_size=4,
        eval_rows=4,
        eval_every=0,
        learning_rate=1e-2,
        lora_rank=8,
        dtype="float32",
    )
    losses = values(result, "eval_loss")
    assert losses[-1] < 0.7 < losses[0]
    assert values(result, "eval_accuracy")[0] < values(result, "eval_accuracy")[-1] == 1.0
    assert values(result, "eval_agreement") == [0.0, 1.0]
    comparator = Comparator(result.run_dir, dtype="float32")
    better = comparator.compare("Q 20?", "one 20", "no! 20")
    assert better > 0.5
    assert comparator.compare("Q 20?", "no! 20", "one 20") == pytest.approx(1 - better, abs=1e-6)
    prompts = ["Q 20?", [{"role": "user", "content": "Q 20?"}]]
    both = comparator.compare_all(prompts, ["one 20"] * 2, ["no! 20"] * 2)
    assert both == pytest.approx([better] * 2, abs=1e-5)
    (sample, _) = json.loads((result.run_dir / "samples.json").read_text())
    chosen, rejected = sample["scored"]
    texts = chosen["text"], rejected["text"]
    odds = chosen["after"] - rejected["after"]
    asked = sample["messages"][0]["content"]
    assert comparator.compare(asked, *texts) == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-4)
    with pytest.raises(DataError, match="row 0"):
        comparator.compare([{"content": "no role"}], "a", "b")
    with pytest.raises(ValueError, match="firsts and seconds must be one for each of 1 prompts"):
        comparator.compare_all(["a"], ["b"], [])
    with pytest.raises(ConfigError, match="must hold a scalar head"):
        RewardModel(result.run_dir)


@pytest.mark.parametrize("truncation", ["left", "middle"])
def test_a_long_conversation_is_cut_and_never_an_answer(run, recorder, rows, truncation) -> None:
    rows[3]["prompt"] = "begin " + "very " * 200 + "end"
    client = recorder()
    result = run(client, epochs=1, eval_rows=0, max_length=500, truncation=truncation)
    assert values(result, "truncated_rows") == [1]
    trained = [d for name, datums in client.log if name == "forward_backward" for d in datums]
    texts = [noop.ByteTokenizer().decode(datum.model_input.to_ints()) for datum in trained]
    (one, two) = [text for text in texts if "one 3" in text]
    assert "no! 3" in one
    assert "end" in one
    assert ("begin" in one) == (truncation == "middle")
    assert 490 < max(datum.model_input.length for datum in trained) <= 499
    assert one != two


def test_rows_that_cannot_be_compared_are_named(run, rows) -> None:
    rows[3]["prompt"] = "very " * 200
    with pytest.raises(StageError, match=r"row 3: has 1... tokens with both answers, more than"):
        run(noop.TrainingClient(), epochs=1, eval_rows=0, truncation="error")
    assert values(
        run(noop.TrainingClient(), epochs=1, eval_rows=0, truncation="drop"), "dropped_rows"
    ) == [1]
    rows[3] = {"prompt": "Q?", "chosen": "a", "rejected": "b", "tie": True}
    with pytest.raises(StageError, match="row 3: one answer must be the better one"):
        run(noop.TrainingClient(), epochs=1, eval_rows=0)


def test_centering_is_for_scores() -> None:
    with pytest.raises(ConfigError, match="centering must be left out for comparator=true"):
        RewardModeling.Config.parse({"comparator": True, "centering": 0.5}, recipe="reward")
    config = RewardModeling.Config.parse({"comparator": True}, recipe="reward")
    assert RewardModeling.Config.parse(config.model_dump(), recipe="reward") == config
