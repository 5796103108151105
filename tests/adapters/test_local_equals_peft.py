"""The whole computation against transformers + PEFT with the same weights, in float32."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from crucible_kitchen import nn

# PEFT still asks transformers by the older of two names.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def randomise(trainer):
    generator = torch.Generator().manual_seed(2)
    for parameter in trainer.parameters:
        parameter.data.normal_(std=0.05, generator=generator)


def peft_twin(folder, adapter):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()


def our_name(name):
    """A parameter of PEFT's as `nn.lora_state_dict` calls it, in lower case."""
    name = name.replace("base_model.model.", "").replace(".default.weight", "").lower()
    return name.replace("lora_magnitude_vector", "magnitude")


def peft_loss(model, datum):
    """Sum of weight times -log p, one sequence at a time, through full logits."""
    inputs = datum["loss_fn_inputs"]
    logits = model(torch.tensor([datum["model_input"]])).logits[0]
    targets = torch.tensor(inputs["target_tokens"])
    lp = torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
    return -(lp * torch.tensor(inputs["weights"])).sum(), lp


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lora_targets": "attention", "use_rslora": True},
        {"gradient_checkpointing": True},
        {"dora": True},
    ],
)
def test_loss_logprobs_and_every_gradient(
    start, local_client, tiny_folder, datums, tmp_path, fields
):
    session = start(**fields)
    trainer = local_client.trainer(session)
    randomise(trainer)
    adapter = local_client.save_weights_for_sampler(session, str(tmp_path / "adapter")).result()
    theirs = peft_twin(tiny_folder, adapter)
    wanted = [peft_loss(theirs, datum) for datum in datums]
    total = sum(loss for loss, _ in wanted)
    total.backward()

    result = local_client.forward_backward(session, datums).result()
    assert result.metrics["loss:sum"] == pytest.approx(float(total.detach()), rel=1e-5)
    weight = sum(sum(datum["loss_fn_inputs"]["weights"]) for datum in datums)
    assert result.loss == pytest.approx(float(total.detach()) / weight, rel=1e-5)
    gradients = {our_name(name): p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    names = nn.lora_state_dict(trainer.model.model)
    assert len(gradients) == len(names) == len(trainer.parameters)
    for name, parameter in zip(names, trainer.parameters, strict=True):
        want = gradients[name.lower()]
        assert (parameter.grad - want).norm() <= 1e-5 * want.norm(), name

    everywhere = local_client.forward(session, datums).result()
    assert everywhere.loss == pytest.approx(result.loss, rel=1e-6)
    for index, (_, lp) in enumerate(wanted):
        got = everywhere.loss_fn_outputs[index]["logprobs"].torch()
        torch.testing.assert_close(got, lp.detach(), rtol=1e-5, atol=1e-5)
        weights = torch.tensor(datums[index]["loss_fn_inputs"]["weights"])
        trained = result.loss_fn_outputs[index]["logprobs"].torch()
        torch.testing.assert_close(trained, torch.where(weights != 0, got, 0.0))


def gradients_of(client, session):
    return [p.grad.clone() for p in client.trainer(session).parameters]


def test_one_call_is_the_same_as_one_by_one(start, local_client, datums):
    together, apart = start(seed=3), start(seed=3)
    for session in (together, apart):
        randomise(local_client.trainer(session))
    whole = local_client.forward_backward(together, datums).result()
    parts = [local_client.forward_backward(apart, [datum]).result() for datum in datums]
    total = sum(part.metrics["loss:sum"] for part in parts)
    assert whole.metrics["loss:sum"] == pytest.approx(total, rel=1e-6)
    for index, part in enumerate(parts):
        torch.testing.assert_close(
            whole.loss_fn_outputs[index]["logprobs"].torch(),
            part.loss_fn_outputs[0]["logprobs"].torch(),
        )
    got, want = gradients_of(local_client, together), gradients_of(local_client, apart)
    for one, other in zip(got, want, strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm()


def test_eight_steps_of_one_are_two_of_four(start, local_client, datums):
    grads = []
    for size in (1, 4):
        session = start(seed=3)
        randomise(local_client.trainer(session))
        for first in range(0, 8, size):
            local_client.forward_backward(session, datums[first : first + size])
        norm = local_client.forward(session, datums).result()  # everything before it is done
        assert norm.loss > 0
        grads.append(torch.cat([g.flatten() for g in gradients_of(local_client, session)]))
    assert (grads[0] - grads[1]).norm() <= 1e-6 * grads[1].norm()


def test_small_passes_change_nothing(tiny_folder, start, local_client, datums):
    from crucible_kitchen.adapters.local import TrainingClient

    small = TrainingClient(device="cpu", tokens_per_pass=10)
    session = start()
    twin = small.start_session(session.config)
    for client, of in ((local_client, session), (small, twin)):
        randomise(client.trainer(of))
    want = local_client.forward_backward(session, datums).result()
    got = small.forward_backward(twin, datums).result()
    assert got.loss == pytest.approx(want.loss, rel=1e-6)
    assert got.metrics["tokens:sum"] == want.metrics["tokens:sum"] == 57
    for one, other in zip(
        gradients_of(small, twin), gradients_of(local_client, session), strict=True
    ):
        assert (one - other).norm() <= 2e-6 * other.norm()
    small.close()
