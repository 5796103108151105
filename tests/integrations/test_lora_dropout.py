"""PEFT's layers with lora_dropout: our masks, each element dropped as often as by PEFT's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import crucible_kitchen as ck
from crucible_kitchen.kernels.common.hash import kept

from .models import assert_same_step, batch, step, tiny, with_lora

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),  # of torch.compile
]

SHARE = 0.3
TOLERANCE = 1e-5


class OurMask(nn.Module):
    """A dropout with the masks of `ops.lora_linear`, by the seeds that the patch draws."""

    def forward(self, x: Tensor) -> Tensor:
        seed = int(torch.randint(2**63 - 1, ()))
        rows = x.reshape(-1, x.shape[-1])
        mask = kept(*rows.shape, SHARE, seed, x.device)
        return (rows * mask / (1 - SHARE)).view_as(x)


def dropping(name: str = "llama") -> nn.Module:
    return with_lora(tiny(name), lora_dropout=SHARE)


def seeded_step(model: nn.Module, seed: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    """A step on rows without padding, where rows of x are rows of the batch."""
    inputs = batch()
    del inputs["attention_mask"]
    model.zero_grad()
    torch.manual_seed(seed)
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_loss_and_gradients_are_those_of_the_same_masks_in_float64(name: str) -> None:
    model = dropping(name)
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = OurMask()
    ck.patch(model, loss=False)  # which computes the last layer at fewer rows
    (loss, grads), (want, wants) = seeded_step(model), seeded_step(exact)
    assert abs(loss - want) <= TOLERANCE * want
    assert grads.keys() == wants.keys()
    for name_, grad in wants.items():
        assert (grads[name_] - grad).norm() <= TOLERANCE * grad.norm(), name_


def test_the_mean_over_seeds_is_the_layer_without_dropout() -> None:
    layer = dropping()
    ck.patch(layer)
    layer = layer.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(6))
    torch.manual_seed(7)
    with torch.no_grad():
        drawn = torch.stack([layer(x) for _ in range(1000)])
        want = layer.eval()(x)
    assert drawn.std(0).min() > 0
    sigmas = (drawn.mean(0) - want) / (drawn.std(0) / len(drawn) ** 0.5)
    assert sigmas.square().mean() == pytest.approx(1.0, abs=0.6)  # 96 normal numbers


def test_in_evaluation_and_at_zero_it_is_pefts() -> None:
    model = dropping()
    plain = copy.deepcopy(model)
    ck.patch(model)
    assert_same_step(model.eval(), plain.eval(), TOLERANCE)
    for one in (model, plain):
        for module in one.train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    assert_same_step(model, plain, TOLERANCE)


def test_a_seed_repeats_a_step_also_under_checkpointing() -> None:
    model = dropping()
    ck.patch(model)
    loss, grads = seeded_step(model)
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    again, same = seeded_step(model)
    assert torch.equal(loss, again)
    assert all(torch.equal(grad, same[name]) for name, grad in grads.items())
    assert seeded_step(model, seed=8)[0] != loss


def test_the_report_says_so_and_the_padding_goes() -> None:
    report = ck.patch(dropping())
    parts = [part for part in report.patched if part.op == "lora_linear"]
    assert len(parts) == 14
    assert {part.note for part in parts} == {"lora_dropout 0.3 by masks of its own"}
    assert "masks of its own" in " ".join(str(report).split())
    assert "unpadded" in {part.op for part in report.patched}


def test_one_graph_draws_pefts_masks() -> None:
    model = dropping()
    torch.manual_seed(9)
    want, _ = step(model)
    ck.patch(model)
    compiled = torch.compile(model.get_base_model(), fullgraph=True, backend="eager")
    torch.manual_seed(9)
    loss = compiled(**batch()).loss.detach()
    assert abs(loss - want) <= TOLERANCE * want


@pytest.mark.parametrize(
    ("drop", "reason"),
    [
        (nn.Dropout(1.0), "its lora_dropout is 1, which leaves nothing of the update"),
        (nn.AlphaDropout(0.1), "its lora_dropout is AlphaDropout, not torch's Dropout"),
    ],
)
def test_other_kinds_of_dropout_are_left_alone(drop: nn.Module, reason: str) -> None:
    model = dropping()
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = drop
    assert sum(part.reason == reason for part in ck.patch(model).left) == 14
