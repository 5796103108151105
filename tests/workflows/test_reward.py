"""`reward` on noop adapters: what it asks of the ports, what it counts, and how it fails."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import noop
from crucible_kitchen.data import Judgement
from crucible_kitchen.errors import ConfigError, DataError, StageError
from crucible_kitchen.ports import PORTS, Future
from crucible_kitchen.recipes import RewardModeling
from crucible_kitchen.stages._scores import calibration_error, score_metrics


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def rows():
    """The better answer is told by its words, so that it shows on pairs never seen."""
    return [
        {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"No, no, no, {n}!"}
        for n in range(10)
    ]


@pytest.fixture
def reward(tmp_path, rows):
    def run(client=None, **config):
        return ck.run(
            "reward",
            {"model": "none", "dataset": write(tmp_path / "pairs.jsonl", rows), **config},
            {"training_client": client or noop.TrainingClient()},
            run_dir=tmp_path / f"run{len(list(tmp_path.glob('run*')))}",
            handlers=(),
        )

    return run


def values(result, name):
    return [record.value for record in result.metrics.history(name)]


def text_of(datum):
    return noop.ByteTokenizer().decode(datum.model_input.to_ints())


def test_it_completes_on_every_noop_adapter_by_its_defaults(tmp_path) -> None:
    adapters = {port.name: getattr(noop, port.__name__) for port in PORTS.values()}
    result = ck.run("reward", None, adapters, run_dir=tmp_path / "run", handlers=())
    assert result.context.state.step == 40
    for name in ("loss", "rewards_chosen", "rewards_rejected", "accuracy", "margin"):
        assert len(values(result, name)) == 40
        assert len(values(result, f"eval_{name}")) == 3
    assert len(values(result, "eval_calibration_error")) == 3
    assert Path(result.artifacts["adapter_path"]).exists()


def test_held_out_accuracy_rises_and_held_out_loss_falls(reward) -> None:
    result = reward(epochs=4, eval_rows=4)
    assert values(result, "eval_loss")[-1] < values(result, "eval_loss")[0] - 0.1
    assert values(result, "eval_accuracy")[0] < values(result, "eval_accuracy")[-1] == 1.0
    assert values(result, "eval_margin")[-1] > values(result, "eval_margin")[0]


def test_datums_are_whole_answers_chosen_and_rejected_in_turn(reward, recorder) -> None:
    client = recorder()
    reward(client, max_steps=1, batch_size=2)
    assert client.calls[0].arguments["config"].head == "scalar"
    datums = next(datums for call, datums in client.log if call == "custom")
    assert [("It is" in text, "No, no" in text) for text in map(text_of, datums)] == [
        (True, False),
        (False, True),
    ] * 2
    assert all(text_of(datum).endswith("<|im_end|>\n") for datum in datums)


def test_held_out_pairs_are_scored_before_between_and_after(reward, recorder) -> None:
    client = recorder()
    result = reward(client, max_steps=4, batch_size=2, eval_rows=3, eval_every=2)
    # Three pairs are six answers, of which two pairs go through the model at a time; two pairs are
    # samples.
    scored = [len(datums) for call, datums in client.log if call == "score"]
    assert scored == [4, 2, 4, 4, 2, 4, 2, 4]
    assert [record.step for record in result.metrics.history("eval_loss")] == [0, 2, 4]


def test_accumulation_changes_nothing_but_rounding(reward) -> None:
    one = reward(epochs=2, batch_size=4)
    cut = reward(epochs=2, batch_size=1, gradient_accumulation=4)
    for name in ("loss", "margin", "accuracy", "rewards_chosen", "grad_norm"):
        assert values(one, name) == pytest.approx(values(cut, name), rel=1e-5, abs=1e-6)
    assert one.metrics.latest("eval_loss") == pytest.approx(cut.metrics.latest("eval_loss"))


def test_margins_and_ties_of_rows_reach_the_loss(reward, rows) -> None:
    plain = values(reward(max_steps=1, centering=0.0), "loss")[0]
    for row in rows:
        row["margin"] = 2.0
    assert values(reward(max_steps=1, centering=0.0), "loss")[0] > plain + 1.0
    for row in rows:
        row["tie"] = True
    tied = reward(max_steps=6, centering=0.0, eval_rows=2)
    assert "accuracy" not in tied.metrics.names()
    assert "eval_calibration_error" not in tied.metrics.names()
    assert values(tied, "loss")[0] >= math.log(2)


def test_centering_reaches_the_loss(reward) -> None:
    low, high = (values(reward(max_steps=1, centering=c), "loss")[0] for c in (0.0, 10.0))
    first = reward(max_steps=1, centering=0.0, batch_size=1)
    sums = values(first, "rewards_chosen")[0] + values(first, "rewards_rejected")[0]
    one = reward(max_steps=1, centering=10.0, batch_size=1)
    gained = values(one, "loss")[0] - values(first, "loss")[0]
    assert gained == pytest.approx(10.0 * sums**2, rel=1e-4)
    assert high > low


def test_equal_scores_and_pairs_judged_equal_are_not_accurate() -> None:
    scores = np.array([1.0, 0.0, 0.5, 0.5, 0.0, 2.0, 5.0, 1.0])
    no, yes = Judgement(0.0, False), Judgement(0.0, True)
    got = score_metrics(scores, [no, no, no, yes])
    assert got["accuracy"] == pytest.approx(1 / 3)
    assert got["margin"] == pytest.approx((1 + 0 - 2 + 4) / 4)
    assert "accuracy" not in score_metrics(scores, [yes] * 4)


def test_calibration_compares_certainty_with_being_right() -> None:
    """Four pairs in one bin, of certainty 0.8, of which three are right."""
    d = math.log(4)
    scores = np.array([d, 0.0, d, 0.0, d, 0.0, 0.0, d])
    none_tied = [Judgement(0.0, False)] * 4
    assert calibration_error(scores, none_tied) == pytest.approx(0.05)
    sure_and_wrong = np.array([0.0, 1e3])
    assert calibration_error(sure_and_wrong, none_tied[:1]) == pytest.approx(1.0)
    # One surely right, one undecided: both are as good as they say.
    fair = np.array([1e3, 0.0, 0.0, 0.0])
    assert calibration_error(fair, none_tied[:2]) == pytest.approx(0.0)
    assert calibration_error(fair, [Judgement(0.0, True)] * 2) is None


def test_checkpoints_and_samples_are_kept(reward) -> None:
    result = reward(max_steps=4, save_every=2, keep_last=1, eval_rows=3, samples=1)
    assert [path.name for path in (result.run_dir / "checkpoints").iterdir()] == ["step_000004"]
    (sample,) = json.loads((result.run_dir / "samples.json").read_text())
    chosen, rejected = sample["scored"]
    assert (chosen["name"], rejected["name"]) == ("chosen", "rejected")
    assert chosen["text"].startswith("It is")
    assert rejected["text"].startswith("No, no")
    assert chosen["after"] - rejected["after"] > chosen["before"] - rejected["before"]
    assert sample["messages"][0]["content"].startswith("What is")
    page = (result.run_dir / "report.html").read_text()
    assert f"{chosen['after']:+.3f}" in page
    assert "held-out accuracy" in page
    assert "Reward margin" in page
    assert "nats per token" not in page


def test_the_run_ends_with_the_best_model_and_its_scores(reward) -> None:
    class WorseAfterTwo(noop.TrainingClient):
        def score(self, session, datums):
            scores = super().score(session, datums).result()
            return Future.resolved([-s for s in scores] if session.steps > 2 else scores)

    result = reward(WorseAfterTwo(), max_steps=4, eval_every=1, save_best=True, samples=1)
    assert values(result, "restored_step") == [2]
    (sample,) = json.loads((result.run_dir / "samples.json").read_text())
    chosen, rejected = sample["scored"]
    assert chosen["after"] > rejected["after"]


def test_no_held_out_pairs_no_evaluation(reward) -> None:
    result = reward(max_steps=1, eval_rows=0)
    assert "eval_loss" not in result.metrics.names()
    assert json.loads((result.run_dir / "samples.json").read_text()) == []


def test_a_loss_that_is_no_number_stops_the_run_before_the_step(reward, spoil) -> None:
    client = spoil(3)
    with pytest.raises(StageError, match="loss must be finite, got nan at step 3"):
        reward(client, max_steps=6)
    assert client.count("optim_step") == 2
    assert client.log[-1][0] == "close_session"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rejected": None}, r"row 6 must have .* without rejected"),
        ({"margin": -1.0}, r"row 6: margin: .* greater than or equal to 0, got -1.0"),
        ({"margin": "much"}, r"row 6: margin: .* valid number, got 'much'"),
        ({"tie": "no"}, r"row 6: tie: .* valid boolean, got 'no'"),
        ({"rejected": "It is 6."}, r"row 6: chosen and rejected must differ"),
    ],
)
def test_a_bad_row_is_named_by_its_place_in_the_file(reward, rows, change, said) -> None:
    rows[6].update(change)
    with pytest.raises(StageError, match=said) as caught:
        reward(max_steps=1)
    assert isinstance(caught.value.__cause__, DataError)


def test_rows_can_be_dropped_and_are_counted(reward, rows) -> None:
    rows[6]["rejected"] = rows[6]["chosen"]
    result = reward(max_steps=1, equal_answers="drop", eval_rows=0)
    assert values(result, "dropped_rows") == [1]
    long = reward(max_steps=1, max_length=40, equal_answers="drop", eval_rows=0)
    assert values(long, "truncated_rows") == [9]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"centring": 0.1}, "unknown key 'centring'; did you mean 'centering'"),
        ({"centering": -0.1}, "centering must be at least 0"),
        ({"truncation": "right"}, "truncation must be"),
        ({"beta": 0.1}, "unknown key 'beta'"),
        ({"sample_tokens": 4}, "unknown key 'sample_tokens'"),
    ],
)
def test_a_wrong_configuration_is_refused(config, said) -> None:
    with pytest.raises(ConfigError, match=said):
        RewardModeling.Config.parse(config, recipe="reward")


def test_every_field_of_the_configuration_is_read_by_the_workflow() -> None:
    from crucible_kitchen.graph.flow import analyse

    unread = set(RewardModeling.Config.model_fields) - analyse(RewardModeling.workflow).keys_read()
    assert unread == set()


def test_pairs_are_packed_to_a_budget_and_all_of_them_are_trained(reward, recorder) -> None:
    client = recorder()
    result = reward(client, epochs=2, eval_rows=2, max_length=60, pack_tokens=240)
    batches = [datums for call, datums in client.log if call == "custom"]
    assert all(sum(datum.model_input.length for datum in batch) <= 240 for batch in batches)
    assert sum(map(len, batches)) == 2 * 2 * 8
    assert result.context.state.step == len(batches) == client.count("optim_step")
    assert len(batches) < 2 * 8, "some packs have more than one pair"


def test_answers_with_a_label_are_scored_in_pairs(reward, rows, tmp_path) -> None:
    rows[:] = [
        {"prompt": f"{n}?", "completion": "It is." if good else "No!", "label": good}
        for n in range(6)
        for good in (True, False)
    ]
    result = reward(epochs=1, eval_rows=2)
    assert result.metrics.latest("train_rows") == 4
    rows.append({"prompt": "alone?", "completion": "It is.", "label": True})
    with pytest.raises(StageError, match="row 12: its prompt has only good answers"):
        reward(epochs=1)
    assert reward(epochs=1, unmatched="drop").metrics.latest("unmatched_rows") == 1
