"""Masks, losses and gradients of the recipes against TRL on one batch of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crucible_kitchen import nn, ops
from crucible_kitchen.adapters.local import TrainingClient
from crucible_kitchen.data import prepare, prepare_pairs
from crucible_kitchen.stages._pairs import interleaved
from crucible_kitchen.stages._scores import score_losses
from crucible_kitchen.testing.tiny_model import tiny_llama

trl = pytest.importorskip("trl", reason="trl is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")

# What TRL and its own libraries warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Count to {n}."}],
        "chosen": [{"role": "assistant", "content": " ".join(["one", "two", "three"][: n + 1])}],
        "rejected": [{"role": "assistant", "content": "no. I will not" + "!" * n}],
        "margin": 0.25 * n,
    }
    for n in range(4)
]
BETA = 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """Turns end with their last token: whitespace behind it would be trained by TRL, not by us."""
    folder = Path(tiny_llama(tmp_path_factory.mktemp("model") / "tiny"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>\n", "<|im_end|>"))
    return str(folder)


@pytest.fixture
def client():
    client = TrainingClient(device="cpu")
    yield client
    client.close()


def start(client, base, head="vocabulary", **more):
    config = {"model": base, "dtype": "float32", "lora_rank": 4, "head": head, **more}
    return client.start_session(config)


def weights(client, session, folder) -> str:
    return client.save_weights_for_sampler(session, str(folder)).result()


def gradients(client, session):
    """Ours by PEFT's names."""
    trainer = client.trainer(session)
    names = nn.trained_state_dict(trainer.model.model)
    named = zip(names, trainer.parameters, strict=True)
    return {nn.peft_format._peft_name(name): parameter.grad for name, parameter in named}


def theirs(model):
    return {
        name.replace(".modules_to_save", "").replace(".default", ""): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_same_gradients(ours, model) -> None:
    wanted = theirs(model)
    assert ours.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = max(gradient.norm().item(), 1e-4)
        assert (ours[name] - gradient).norm().item() <= 2e-4 * scale, name


def dataset(*columns):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    return datasets.Dataset.from_list([{key: row[key] for key in columns} for row in ROWS])


def options(tmp_path):
    return {
        "output_dir": str(tmp_path / "trl"),
        "per_device_train_batch_size": len(ROWS),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": True,
        "max_length": None,
    }


@pytest.mark.parametrize("train_on", ["completion_only", "all_tokens"])
def test_sft_is_trls(base, client, tmp_path, train_on) -> None:
    """The same tokens are trained, to the same mean per token and the same gradients."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    session = start(client, base)
    folder = weights(client, session, tmp_path / "start")
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    alone = train_on == "completion_only"
    trainer = trl.SFTTrainer(
        model=peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), folder, is_trainable=True
        ),
        args=trl.SFTConfig(completion_only_loss=alone, **options(tmp_path)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.model.train()
    want = trainer.compute_loss(trainer.model, dict(batch))
    want.backward()

    datums = prepare(rows, client.get_tokenizer(session), train_on=train_on).datums
    labels = batch["labels"]
    assert [trained(datum) for datum in datums] == [
        [token for token in row[1:].tolist() if token != -100] for row in labels
    ]
    total = sum(len(trained(datum)) for datum in datums)
    got = client.forward_backward(session, datums).result().metrics["loss:sum"] / total
    assert got == pytest.approx(want.item(), rel=1e-5)
    for parameter in client.trainer(session).parameters:
        parameter.grad /= total
    assert_same_gradients(gradients(client, session), trainer.model)


def trained(datum) -> list[int]:
    """The tokens a datum trains."""
    inputs = datum.loss_fn_inputs
    return inputs["target_tokens"].numpy()[inputs["weights"].numpy() > 0].tolist()


@pytest.mark.parametrize("margin", [False, True])
def test_reward_is_trls(base, client, tmp_path, margin) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    session = start(client, base, head="scalar")
    folder = weights(client, session, tmp_path / "start")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.config.pad_token_id = 0
    trainer = trl.RewardTrainer(
        model=peft.PeftModel.from_pretrained(model, folder, is_trainable=True),
        args=trl.RewardConfig(center_rewards_coefficient=0.02, **options(tmp_path)),
        train_dataset=dataset("prompt", "chosen", "rejected", *(["margin"] if margin else [])),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert ("margin" in batch) == margin
    trainer.model.train()
    want = trainer.compute_loss(trainer.model, batch)
    want.backward()

    rows = ROWS if margin else [{**row, "margin": 0.0} for row in ROWS]
    made = prepare_pairs(rows, client.get_tokenizer(session), form="scored")
    datums = interleaved(made.pairs)
    length = [int(one.sum()) for one in batch["attention_mask"]]
    assert [d.model_input.length for d in (*datums[0::2], *datums[1::2])] == length

    def loss(_, scores):
        return score_losses(scores, made.judgements, 0.02).mean(), {}

    got = client.forward_backward_custom(session, datums, loss).result().loss
    assert got == pytest.approx(want.item(), rel=1e-5)
    assert_same_gradients(gradients(client, session), trainer.model)


@pytest.fixture(scope="module")
def dpo(base, tmp_path_factory):
    """TRL's trainer, whose policy has learnt and whose reference has not, and its batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tmp_path = tmp_path_factory.mktemp("dpo")
    client = TrainingClient(device="cpu")
    session = start(client, base)
    fresh = weights(client, session, tmp_path / "fresh")
    pairs = prepare_pairs(ROWS, client.get_tokenizer(session)).pairs
    for _ in range(3):
        client.forward_backward(session, interleaved(pairs))
        client.optim_step(session, 1e-2)
    learnt = weights(client, session, tmp_path / "learnt")
    client.close()
    trainer = trl.DPOTrainer(
        model=peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), fresh, is_trainable=True
        ),
        args=trl.DPOConfig(beta=BETA, **options(tmp_path)),
        train_dataset=dataset("prompt", "chosen", "rejected"),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    state = load_file(Path(learnt) / "adapter_model.safetensors")
    peft.set_peft_model_state_dict(trainer.model, state)
    return trainer, trainer.data_collator(list(trainer.train_dataset)), learnt


@pytest.mark.parametrize("loss_type", ops.DPO_LOSSES)
def test_dpo_is_trls(base, client, dpo, loss_type) -> None:
    trainer, batch, learnt = dpo
    smoothing = 0.1 if loss_type in ("robust", "exo_pair", "aot", "aot_unpaired") else 0.0
    trainer.loss_types, trainer.loss_weights = [loss_type], [1.0]
    trainer.label_smoothing = smoothing
    trainer.model.zero_grad()
    trainer.model.train()
    want = trainer.compute_loss(trainer.model, batch)
    want.backward()

    session = start(client, base, checkpoint_path=learnt)
    datums = interleaved(prepare_pairs(ROWS, client.get_tokenizer(session)).pairs)
    masks = [datum.loss_fn_inputs["weights"].torch() for datum in datums]
    frozen = client.forward(start(client, base), datums).result().loss_fn_outputs
    reference = ops.answer_logprobs([output["logprobs"].torch() for output in frozen], masks)
    lengths = torch.stack([mask.double().sum() for mask in masks])

    def loss(_, logprobs):
        policy = ops.answer_logprobs(logprobs, masks)
        return ops.dpo_loss(
            policy[0::2],
            policy[1::2],
            reference[0::2],
            reference[1::2],
            loss=loss_type,
            beta=BETA,
            label_smoothing=smoothing or None,
            chosen_lengths=lengths[0::2],
            rejected_lengths=lengths[1::2],
        ).mean(), {}

    got = client.forward_backward_custom(session, datums, loss).result().loss
    assert got == pytest.approx(want.item(), rel=1e-4)
    assert_same_gradients(gradients(client, session), trainer.model)
