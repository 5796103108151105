"""Ops compute parts of a model where they give the same numbers, and only there."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Phi3Config

from crucible_kitchen.nn import fuse

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
def test_ops_compute_a_llama_s_norms_and_mlps_and_it_says_the_same(dtype):
    model = _model(LlamaConfig(**SIZES), dtype)
    names, kinds = set(model.state_dict()), [type(part) for part in model.modules()]
    tokens = torch.arange(12)[None]
    before = model(tokens).logits
    assert fuse(model) == 2 * 3 + 1
    assert [type(part) for part in model.modules()] == kinds
    assert set(model.state_dict()) == names
    # float32: one row's sums in another order. bfloat16: 8 bits, rounded in other places.
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    error = (model(tokens).logits - before).float().norm() / before.float().norm()
    assert error <= tolerance


def test_gradients_are_those_of_the_parts():
    model, plain = _model(LlamaConfig(**SIZES)), _model(LlamaConfig(**SIZES))
    fuse(model)
    tokens = torch.arange(12)[None]
    for one in (model, plain):
        one(tokens).logits.logsumexp(-1).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm(), name


def test_gemma_s_norms_have_weights_counted_from_one_and_its_mlps_stay():
    model = _model(Gemma2Config(**SIZES, head_dim=8))
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.normal_()
    tokens = torch.arange(12)[None]
    before = model(tokens).logits
    assert fuse(model) == 2 * 4 + 1, "the MLPs are gated by gelu"
    assert (model(tokens).logits - before).norm() <= 1e-5 * before.norm()


def test_a_norm_with_a_bias_and_an_mlp_with_one_stay():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(8, 8), nn.Linear(8, 8)
            self.down_proj = nn.Linear(8, 8)

        def forward(self, x):
            return self.down_proj(self.gate_proj(x).relu() * self.up_proj(x))

    assert fuse(nn.Sequential(nn.LayerNorm(8), Mlp())) == 0


def test_an_mlp_whose_gate_is_in_the_other_linear():
    model = _model(Phi3Config(**SIZES, pad_token_id=0))
    tokens = torch.arange(12)[None]
    before = model(tokens).logits
    assert fuse(model) == 2 * 3 + 1
    assert (model(tokens).logits - before).norm() <= 1e-5 * before.norm()


def test_a_part_of_two_dtypes_or_without_a_kernel_runs_its_own_code():
    norm = _model(LlamaConfig(**SIZES)).model.norm
    assert fuse(norm) == 1
    for dtype in (torch.bfloat16, torch.float64):
        x = torch.randn(3, 32).to(dtype)
        assert torch.equal(norm(x), type(norm).forward(norm, x))
    assert fuse(_model(LlamaConfig(**SIZES), torch.float64)) == 0


def test_copies_compute_the_same_and_pickles_come_back_with_their_own_code():
    model = _model(LlamaConfig(**SIZES))
    fuse(model)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert copied.model.norm.forward.__self__ is copied.model.norm
    assert copied.model.norm.forward.__func__ is model.model.norm.forward.__func__
    assert pickled.model.norm.forward.__func__ is type(model.model.norm).forward
    tokens = torch.arange(12)[None]
    assert torch.equal(copied(tokens).logits, model(tokens).logits)
