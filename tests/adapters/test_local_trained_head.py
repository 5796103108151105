"""An update of the head over the vocabulary, beside the same computed with all its logits."""

import pytest
import torch

from crucible_kitchen import nn
from crucible_kitchen.adapters.local import trained_head
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.errors import ConfigError


@pytest.fixture
def head(tiny_folder):
    model = CausalModel.load(tiny_folder, dtype="float32", device="cpu")
    nn.apply_lora(model.model, nn.LoraConfig(rank=3, targets=["head"], seed=1))
    torch.nn.init.normal_(model.head.lora_b, std=0.1)
    return model.head


@pytest.mark.parametrize("rows", [0, 1, 256, 300])
def test_values_and_gradients_are_those_of_all_logits(head, rows):
    hidden = torch.randn(rows, head.in_features, requires_grad=True)
    targets = torch.randint(head.out_features, (rows,))
    weight = head.weight.double() + head.scale * head.lora_b.double() @ head.lora_a.double()
    want = (hidden.double() @ weight.T).log_softmax(1).gather(1, targets[:, None])[:, 0]
    got = trained_head.logprobs(head, hidden, targets)
    inputs = [hidden, head.lora_a, head.lora_b]
    slope = torch.randn(rows)
    wanted = torch.autograd.grad((want * slope.double()).sum(), inputs)
    given = torch.autograd.grad((got * slope).sum(), inputs)
    torch.testing.assert_close(got, want.float())
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(trained_head.logprobs(head, hidden, targets), got)


def test_the_parts_of_a_batch_have_dropout_masks_of_their_own(head):
    head.dropout, head.dropout_step = 0.5, 3
    head.train()
    hidden = torch.randn(256, head.in_features).repeat(2, 1)
    targets = torch.zeros(512, dtype=torch.long)
    first, second = trained_head.logprobs(head, hidden, targets).split(256)
    assert (first != second).float().mean() > 0.9
    assert torch.equal(trained_head.logprobs(head, hidden, targets)[256:], second)


def test_a_session_trains_the_head_that_its_targets_name(start, local_client, datums):
    session = start(lora_targets=["head", "mlp"])
    trainer = local_client.trainer(session)
    assert {layer.path.rpartition(".")[2] for layer in trainer.layers} == {
        *("lm_head", "gate_proj", "up_proj", "down_proj"),
    }
    first = local_client.forward(session, datums).result().loss
    for _ in range(5):
        local_client.forward_backward(session, datums)
        local_client.optim_step(session, 1e-2).result()
    assert local_client.forward(session, datums).result().loss < 0.8 * first
    assert trainer.model.head.lora_b.abs().max() > 0


def test_a_tied_head_is_not_merged_into_the_embedding(start, local_client, tmp_path):
    from crucible_kitchen.adapters.local.exporter import export

    session = start(lora_targets=["head"])
    saved = local_client.save_checkpoint(session, str(tmp_path / "saved")).result()
    with pytest.raises(ConfigError, match="the model's embedding too"):
        export(saved, tmp_path / "out", form="merged")
