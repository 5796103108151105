"""`dpo` on noop adapters: what it asks of the ports, what it counts, and how it fails."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import noop
from crucible_kitchen.errors import ConfigError, DataError, StageError
from crucible_kitchen.ports import PORTS
from crucible_kitchen.recipes import DPO
from crucible_kitchen.recipes.dpo import Loss
from crucible_kitchen.stages._pairs import preference_metrics
from crucible_kitchen.types import TensorData


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs_file(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "I " + "do " * n + "not"}
        for n in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def dpo(tmp_path, pairs_file):
    def run(client=None, **config):
        return ck.run(
            "dpo",
            {"model": "none", "dataset": pairs_file, "eval_rows": 2, **config},
            {"training_client": client or noop.TrainingClient(), "completer": noop.Completer()},
            run_dir=tmp_path / f"run{len(list(tmp_path.glob('run*')))}",
            handlers=(),
        )

    return run


def values(result, name):
    return [record.value for record in result.metrics.history(name)]


def test_it_completes_on_every_noop_adapter_by_its_defaults(tmp_path) -> None:
    adapters = {port.name: getattr(noop, port.__name__) for port in PORTS.values()}
    result = ck.run("dpo", None, adapters, run_dir=tmp_path / "run", handlers=())
    assert result.context.state.step == 40
    for name in ("rewards_chosen", "rewards_rejected", "accuracy", "margin", "logprobs_chosen"):
        assert len(values(result, name)) == 40
        assert len(values(result, f"eval_{name}")) == 3
    assert Path(result.artifacts["adapter_path"]).exists()
    assert not (tmp_path / "cache").exists(), "a model without weights is not remembered"


def test_the_first_step_has_loss_ln_2_and_nothing_is_preferred(dpo) -> None:
    result = dpo(max_steps=2)
    assert values(result, "loss")[0] == pytest.approx(math.log(2), abs=1e-12)
    assert values(result, "eval_loss")[0] == pytest.approx(math.log(2), abs=1e-12)
    for name in ("accuracy", "margin", "rewards_chosen", "rewards_rejected"):
        assert values(result, f"eval_{name}")[0] == 0.0
        assert values(result, name)[0] == pytest.approx(0.0, abs=1e-12)
    assert values(result, "loss")[1] != pytest.approx(math.log(2), abs=1e-6)


def test_the_reference_is_asked_before_the_first_step_and_never_again(dpo, recorder) -> None:
    client = recorder()
    result = dpo(client, epochs=3, batch_size=4, eval_every=0)
    calls = [call for call, _ in client.log]
    before = calls.index("custom")
    # 8 pairs to train and 2 held out are 20 answers, 8 at a time; at the end 4 are evaluated.
    assert calls[:before] == ["forward"] * 3
    assert [len(datums) for call, datums in client.log if call == "forward"] == [8, 8, 4, 4]
    assert calls[before:].count("custom") == 6
    assert values(result, "reference_answers_computed") == [20]


def test_only_pairs_that_will_be_trained_are_asked_for(dpo, recorder) -> None:
    client = recorder()
    result = dpo(client, max_steps=1, batch_size=3)
    assert values(result, "reference_answers_computed") == [2 * 3 + 2 * 2]
    asked = {id_of(d) for call, datums in client.log if call == "forward" for d in datums}
    trained = {id_of(d) for call, datums in client.log if call == "custom" for d in datums}
    assert trained < asked


def id_of(datum):
    return tuple(datum.model_input.to_ints())


def test_datums_are_chosen_and_rejected_in_turn(dpo, recorder) -> None:
    client = recorder()
    dpo(client, max_steps=1, batch_size=2)
    datums = next(datums for call, datums in client.log if call == "custom")
    text = [noop.ByteTokenizer().decode(id_of(datum)) for datum in datums]
    assert ["It is" in one for one in text] == [True, False, True, False]


def test_accumulation_changes_nothing_but_rounding(dpo) -> None:
    one = dpo(epochs=2, batch_size=4)
    cut = dpo(epochs=2, batch_size=1, gradient_accumulation=4)
    for name in ("loss", "margin", "accuracy", "rewards_chosen", "logprobs_rejected"):
        assert values(one, name) == pytest.approx(values(cut, name), rel=1e-9, abs=1e-12)
    assert one.metrics.latest("eval_loss") == pytest.approx(cut.metrics.latest("eval_loss"))


@pytest.mark.parametrize("loss_type", get_args(Loss))
def test_every_loss_completes(dpo, loss_type) -> None:
    from crucible_kitchen.ops import DPO_LOSSES

    assert set(get_args(Loss)) == set(DPO_LOSSES)
    result = dpo(max_steps=2, loss_type=loss_type)
    assert all(math.isfinite(value) for value in values(result, "loss"))


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 0.5},
        {"label_smoothing": 0.3},
        {"sft_weight": 1.0},
        {"loss_type": "hinge"},
        {"loss_type": {"sigmoid": 1.0, "hinge": 0.5}},
        {"divergence": "forward_kl"},
        {"divergence": "js"},
        {"divergence": "alpha", "divergence_alpha": 0.3},
        {"ld_alpha": 0.5},
    ],
)
def test_what_the_loss_is_told_reaches_it(dpo, change) -> None:
    assert values(dpo(max_steps=3), "loss")[-1] != values(dpo(max_steps=3, **change), "loss")[-1]


def test_the_weight_of_the_divergence_between_the_two_kls_reaches_it(dpo) -> None:
    losses = [
        values(dpo(max_steps=3, divergence="alpha", divergence_alpha=alpha), "loss")[-1]
        for alpha in (None, 0.5, 0.9)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "change",
    [{"divergence": "js"}, {"ld_alpha": 0.3}, {"loss_type": {"sigmoid": 0.75, "robust": 0.25}}],
)
def test_from_its_own_reference_the_first_step_has_loss_ln_2_whatever_is_measured(
    dpo, change
) -> None:
    assert values(dpo(max_steps=1, **change), "loss")[0] == pytest.approx(math.log(2), abs=1e-12)


@pytest.fixture
def two_models(recorder):
    """A client whose models differ: noop's are all the same."""

    class TwoModels(recorder):
        def __init__(self, tokenizers=None):
            super().__init__()
            self.models, self.tokenizers = [], tokenizers or {}

        def start_session(self, config):
            session = super().start_session(config)
            self.models.append(session.config.model)
            self.log.append(("start_session", session.config))
            return session

        def forward(self, session, datums, *rest):
            future = super().forward(session, datums, *rest)
            if session.config.model != "wise":
                return future
            result = future.result()
            outputs = [
                {"logprobs": TensorData(o["logprobs"].numpy() - 0.01 * (i % 2))}
                for i, o in enumerate(result.loss_fn_outputs)
            ]
            return type(future).resolved(replace(result, loss_fn_outputs=tuple(outputs)))

        def get_tokenizer(self, session):
            own = self.tokenizers.get(session.config.model)
            return own or super().get_tokenizer(session)

    return TwoModels


def test_another_model_can_be_the_reference_and_is_closed_behind_it(dpo, two_models) -> None:
    client = two_models()
    result = dpo(client, max_steps=2, reference_model="wise")
    assert client.models == ["none", "wise"]
    calls = [call for call, _ in client.log]
    first = calls.index("custom")
    assert calls[:first].count("close_session") == 1
    assert calls.index("close_session") > calls.index("forward")
    # The reference thinks less of the rejected answers, so the policy earns something for them.
    assert values(result, "rewards_rejected")[0] > 0
    assert values(result, "loss")[0] > math.log(2) + 1e-3
    assert values(result, "eval_loss")[0] > math.log(2) + 1e-3


def test_a_reference_that_reads_other_tokens_is_refused_and_closed(dpo, two_models) -> None:
    class Backwards(noop.ByteTokenizer):
        def encode(self, text, *, add_special_tokens=True):
            return super().encode(text)[::-1]

    client = two_models({"wise": Backwards()})
    with pytest.raises(StageError, match="must read text as the same tokens as model"):
        dpo(client, max_steps=2, reference_model="wise")
    assert [call for call, _ in client.log].count("close_session") == 2


def test_length_desensitisation_changes_only_what_is_longer(dpo) -> None:
    plain, less = dpo(max_steps=1, batch_size=1), dpo(max_steps=1, batch_size=1, ld_alpha=0.0)
    names = ("logprobs_chosen", "logprobs_rejected")
    one, other = ([values(run, name)[0] for name in names] for run in (plain, less))
    changed = [a != b for a, b in zip(one, other, strict=True)]
    assert sorted(changed) == [False, True]


def test_the_sft_term_is_the_chosen_answers_loss_per_token(dpo, recorder) -> None:
    without, with_it = (
        values(dpo(max_steps=1, batch_size=1, sft_weight=weight), "loss")[0]
        for weight in (0.0, 0.5)
    )
    client = recorder()
    result = dpo(client, max_steps=1, batch_size=1)
    chosen = next(datums for call, datums in client.log if call == "custom")[0]
    per_token = -values(result, "logprobs_chosen")[0] / chosen.num_trained_tokens
    assert with_it - without == pytest.approx(0.5 * per_token)


def test_bco_compares_with_the_mean_reward_of_the_steps_before(dpo) -> None:
    result = dpo(max_steps=3, loss_type="bco_pair", batch_size=4)
    steps = zip(values(result, "rewards_chosen"), values(result, "rewards_rejected"), strict=True)
    means = [(chosen + rejected) / 2 for chosen, rejected in steps]
    # Every step has four pairs: two of them are an epoch of eight.
    assert result.context.state.reward_mean == pytest.approx(np.mean(means))
    assert result.context.state.rewards_seen == 24


def test_ties_are_not_accurate() -> None:
    policy, reference = np.array([-1.0, -2.0, -3.0, -3.0, -4.0, -1.0]), np.full(6, -2.0)
    got = preference_metrics(policy, reference, 0.5)
    assert got["accuracy"] == pytest.approx(1 / 3)
    assert got["margin"] == pytest.approx(0.5 * (1 + 0 - 3) / 3)
    assert (got["rewards_chosen"], got["rewards_rejected"]) == pytest.approx((-1 / 3, 0.0))
    assert (got["logprobs_chosen"], got["logprobs_rejected"]) == pytest.approx((-8 / 3, -2.0))


def test_evaluation_checkpoints_and_samples_are_as_in_sft(dpo) -> None:
    result = dpo(max_steps=4, eval_every=2, save_every=2, keep_last=1)
    assert [record.step for record in result.metrics.history("eval_loss")] == [0, 2, 4]
    assert [path.name for path in (result.run_dir / "checkpoints").iterdir()] == ["step_000004"]
    samples = json.loads((result.run_dir / "samples.json").read_text())
    assert len(samples) == 2
    assert all(sample["wanted"].startswith("It is") for sample in samples)


def test_no_held_out_pairs_no_evaluation(dpo) -> None:
    assert "eval_loss" not in dpo(max_steps=1, eval_rows=0).metrics.names()


def test_a_loss_that_is_no_number_stops_the_run_before_the_step(dpo, spoil) -> None:
    client = spoil(3)
    with pytest.raises(StageError, match="loss must be finite, got nan at step 3"):
        dpo(client, max_steps=6)
    assert client.count("optim_step") == 2
    assert client.log[-1][0] == "close_session"


def test_a_bad_row_is_named_by_its_place_in_the_file(dpo, pairs_file) -> None:
    lines = Path(pairs_file).read_text().splitlines()
    lines[6] = json.dumps({"prompt": "What is 6?", "chosen": "It is 6."})
    Path(pairs_file).write_text("\n".join(lines) + "\n")
    with pytest.raises(StageError, match=r"row 6 must have .* without rejected") as caught:
        dpo(max_steps=1)
    assert isinstance(caught.value.__cause__, DataError)


def test_rows_of_another_recipe_are_refused(tmp_path) -> None:
    adapters = {"training_client": "noop", "dataset_store": noop.DatasetStore(kind="sft")}
    with pytest.raises(StageError, match=r"row 0 must have .* without chosen and rejected"):
        ck.run("dpo", {"model": "none"}, adapters, run_dir=tmp_path / "run", handlers=())


def with_margins(path, margin):
    lines = Path(path).read_text().splitlines()
    rows = [{**json.loads(line), **margin(n)} for n, line in enumerate(lines)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_margin_is_by_how_much_the_chosen_reward_is_to_be_higher(dpo, pairs_file) -> None:
    """From its own reference every reward is 0, so the loss is that of the margin alone."""
    with_margins(pairs_file, lambda n: {"margin": 1.5})
    result = dpo(max_steps=1)
    wanted = math.log1p(math.exp(1.5))
    assert values(result, "loss")[0] == pytest.approx(wanted, abs=1e-12)
    assert values(result, "eval_loss")[0] == pytest.approx(wanted, abs=1e-12)
    half = dpo(max_steps=1, margin_weight=0.5)
    assert values(half, "loss")[0] == pytest.approx(math.log1p(math.exp(0.75)), abs=1e-12)
    assert values(dpo(max_steps=1, margin_weight=0.0), "loss")[0] == pytest.approx(math.log(2))


def test_each_row_has_its_own_margin(dpo, pairs_file) -> None:
    with_margins(pairs_file, lambda n: {"margin": n} if n % 2 else {})
    result = dpo(max_steps=1, batch_size=10, eval_rows=0)
    wanted = np.mean([math.log1p(math.exp(n if n % 2 else 0)) for n in range(10)])
    assert values(result, "loss")[0] == pytest.approx(wanted, abs=1e-12)


def test_a_margin_for_a_loss_that_has_none_is_refused(dpo, pairs_file) -> None:
    with_margins(pairs_file, lambda n: {"margin": 1.0})
    with pytest.raises(StageError, match=r"loss_type must be of .* margin_weight=0 leaves margins"):
        dpo(max_steps=1, loss_type="nca_pair")
    dpo(max_steps=1, loss_type="nca_pair", margin_weight=0.0)


def test_pairs_that_were_judged_equal_teach_nothing_and_are_not_trained(dpo, pairs_file) -> None:
    with_margins(pairs_file, lambda n: {"tie": n == 4})
    with pytest.raises(StageError, match="row 4: one answer must be the better one, got tie=true"):
        dpo(max_steps=1, eval_rows=0)
    result = dpo(max_steps=1, eval_rows=0, equal_answers="drop")
    assert values(result, "dropped_rows") == [1]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"bta": 0.1}, "unknown key 'bta'; did you mean 'beta'"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"margin_weight": -1.0}, "margin_weight must be at least 0"),
        ({"loss_type": "sigmod"}, "loss_type must be"),
        ({"truncation": "right"}, "truncation must be"),
        ({"label_smoothing": 0.5}, "label_smoothing must be"),
        ({"loss_type": "ipo", "label_smoothing": 0.1}, "label_smoothing must be null"),
        ({"loss_type": "exo_pair", "label_smoothing": 0.0}, "label_smoothing must be above 0"),
        ({"discopop_tau": 0.1}, "discopop_tau must be left out for loss_type='sigmoid'"),
        ({"loss_type": "aot", "batch_size": 1}, "batch_size must be at least 2"),
        ({"train_on": "last_assistant"}, "unknown key 'train_on'"),
        ({"loss_type": {}}, "loss_type must"),
        ({"loss_type": {"sigmoid": 0.0}}, r"\n  - loss_type\.sigmoid must be above 0, got 0\.0$"),
        ({"loss_type": {"sigmod": 1.0}}, r"\n  - a key of loss_type must be 'sig.*, got 'sigmod'$"),
        ({"loss_type": {"hinge": 1.0}, "label_smoothing": 0.1}, "label_smoothing must be null"),
        ({"loss_type": {"aot": 1.0, "hinge": 1.0}, "batch_size": 1}, "batch_size must be at least"),
        ({"loss_type": "aot", "pack_tokens": 4096}, "pack_tokens must be null"),
        ({"divergence": "kl"}, "divergence must be"),
        ({"divergence_alpha": 0.5}, "divergence_alpha must be null for divergence='reverse_kl'"),
        ({"divergence": "alpha", "divergence_alpha": 1.0}, "divergence_alpha must be less than 1"),
        ({"loss_type": {"bco_pair": 1.0}, "divergence": "js"}, "divergence must be 'reverse_kl'"),
        ({"ld_alpha": 1.5}, "ld_alpha must be"),
        ({"reference_model": ""}, "reference_model must"),
    ],
)
def test_a_wrong_configuration_is_refused(config, said) -> None:
    with pytest.raises(ConfigError, match=said):
        DPO.Config.parse(config, recipe="dpo")


def test_a_configuration_survives_being_written_and_read() -> None:
    config = DPO.Config.parse({"beta": 0.2}, recipe="dpo")
    fields = {key: value for key, value in config.model_dump().items() if key != "discopop_tau"}
    assert DPO.Config.parse(fields, recipe="dpo") == config


def test_every_field_of_the_configuration_is_read_by_the_workflow() -> None:
    from crucible_kitchen.graph.flow import analyse

    unread = set(DPO.Config.model_fields) - analyse(DPO.workflow).keys_read()
    assert unread == set()
