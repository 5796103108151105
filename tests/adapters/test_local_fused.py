"""Parts of a model are replaced where the replacement gives the same numbers, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from crucible_kitchen.adapters.local import fused

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _model(config, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_llama_s_norms_and_mlps_are_replaced_and_it_says_the_same(dtype):
    model = _model(LlamaConfig(**SIZES), dtype)
    names = set(model.state_dict())
    tokens = torch.arange(12)[None]
    before = model(tokens).logits
    assert fused.fuse(model) == 2 * 3 + 1
    kinds = [type(part) for part in model.modules()]
    assert kinds.count(fused.RmsNorm) == 5
    assert kinds.count(fused.GatedMlp) == 2
    assert set(model.state_dict()) == names
    # float32: one row's sums in another order. bfloat16: 8 bits, rounded in other places.
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    error = (model(tokens).logits - before).float().norm() / before.float().norm()
    assert error <= tolerance


def test_gradients_are_those_of_the_parts():
    model, plain = _model(LlamaConfig(**SIZES)), _model(LlamaConfig(**SIZES))
    fused.fuse(model)
    tokens = torch.arange(12)[None]
    for one in (model, plain):
        one(tokens).logits.logsumexp(-1).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm(), name


def test_what_computes_something_else_stays():
    """Gemma's norm multiplies by one plus its weight, and its MLP is gated by gelu."""
    model = _model(Gemma2Config(**SIZES, head_dim=8))
    assert fused.fuse(model) == 0


def test_a_norm_with_a_bias_and_an_mlp_with_one_stay():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(8, 8), nn.Linear(8, 8)
            self.down_proj = nn.Linear(8, 8)

        def forward(self, x):
            return self.down_proj(self.gate_proj(x).relu() * self.up_proj(x))

    assert fused.fuse(nn.Sequential(nn.LayerNorm(8), Mlp())) == 0
