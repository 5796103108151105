"""LoRA on a model: which layers, how they start, what they compute, and back again."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from crucible_kitchen.errors import ConfigError
from crucible_kitchen.nn import (
    LoraConfig,
    LoraLinear,
    apply_lora,
    load_lora_state_dict,
    lora_modules,
    lora_parameters,
    lora_state_dict,
    merge_lora,
    merged_state_dict,
    set_dropout_step,
    unmerge_lora,
)

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


def leaves(model):
    return {path.rpartition(".")[2] for path, _ in lora_modules(model)}


def randomise(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora_parameters(model):
        parameter.data.normal_(std=0.1, generator=generator)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("all-linear", ATTENTION | MLP),
        ("attention", ATTENTION),
        ("mlp", MLP),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (["lm_head"], {"lm_head"}),
    ],
)
def test_targets(tiny, targets, names):
    apply_lora(tiny, LoraConfig(rank=4, targets=targets))
    assert leaves(tiny) == names
    trained = {name.rpartition(".")[2] for name, p in tiny.named_parameters() if p.requires_grad}
    assert trained == {"lora_a", "lora_b"}


def test_a_full_path_is_one_layer(tiny):
    path = "model.layers.1.mlp.up_proj"
    apply_lora(tiny, LoraConfig(targets=[path]))
    assert [found for found, _ in lora_modules(tiny)] == [path]


def test_a_target_that_matches_nothing_lists_the_linears(tiny):
    with pytest.raises(ConfigError, match=r"down_proj.*got 'q_prj'; did you mean 'q_proj'"):
        apply_lora(tiny, LoraConfig(targets=["v_proj", "q_prj"]))
    assert not list(lora_modules(tiny))


def test_lora_on_lora_is_refused(tiny):
    apply_lora(tiny, LoraConfig())
    with pytest.raises(ConfigError, match="without LoRA"):
        apply_lora(tiny, LoraConfig())


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LoraConfig(**wrong)


def test_a_fresh_update_changes_nothing(tiny, tokens):
    before = tiny(tokens).logits
    torch.testing.assert_close(apply_lora(tiny, LoraConfig())(tokens).logits, before)


def test_initial_weights_depend_on_path_and_seed_alone(tiny):
    weights = {}
    for order in (["q_proj", "k_proj"], ["k_proj"]):
        layers = nn.ModuleDict({name: nn.Linear(8, 8) for name in order})
        apply_lora(layers, LoraConfig(rank=2, seed=7, targets=order))
        weights[len(order)] = lora_state_dict(layers)["k_proj.lora_a"]
    assert torch.equal(weights[1], weights[2])
    state = lora_state_dict(apply_lora(tiny, LoraConfig(seed=7)))
    first, second = (state[f"model.layers.{i}.mlp.up_proj.lora_a"] for i in (0, 1))
    assert not torch.equal(first, second)
    bound = first.shape[1] ** -0.5
    assert 0.9 * bound < float(first.abs().max()) <= bound
    assert abs(float(first.std()) / (bound / 3**0.5) - 1) < 0.1


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_is_the_formula(use_rslora, bias):
    base = nn.Linear(12, 7, bias=bias)
    layer = LoraLinear(base, rank=4, alpha=6.0, use_rslora=use_rslora)
    nn.init.normal_(layer.lora_b)
    scale = 6.0 / 2 if use_rslora else 6.0 / 4
    x = torch.randn(3, 5, 12)
    wanted = base(x) + scale * (x @ layer.lora_a.T) @ layer.lora_b.T
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("bias", [False, True])
def test_dora_is_the_formula_and_starts_as_the_layer(bias):
    base = nn.Linear(12, 7, bias=bias)
    layer = LoraLinear(base, rank=4, alpha=6.0, dora=True)
    x = torch.randn(3, 5, 12)
    torch.testing.assert_close(layer(x), base(x))
    nn.init.normal_(layer.lora_b)
    nn.init.normal_(layer.magnitude)
    weight = layer.weight + layer.scale * layer.lora_b @ layer.lora_a
    weight = layer.magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
    wanted = nn.functional.linear(x, weight, base.bias)
    torch.testing.assert_close(layer(x), wanted)
    frozen = layer.weight.clone()
    layer.merge()
    torch.testing.assert_close(layer.weight.data, weight.data)
    torch.testing.assert_close(layer(x), wanted)
    layer.unmerge()
    assert torch.equal(layer.weight, frozen)
    layer.reset_lora()
    torch.testing.assert_close(layer(x), base(x))


def test_dora_trains_and_merges_in_a_model(tiny, tokens):
    apply_lora(tiny, LoraConfig(rank=4, dora=True))
    randomise(tiny)
    assert {name.rpartition(".")[2] for name in lora_state_dict(tiny)} == {
        "lora_a",
        "lora_b",
        "magnitude",
    }
    tiny(tokens).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in lora_parameters(tiny))
    wanted = tiny(tokens).logits
    plain = AutoModelForCausalLM.from_config(tiny.config)
    plain.load_state_dict(merged_state_dict(tiny))
    torch.testing.assert_close(plain(tokens).logits, wanted, rtol=1e-3, atol=1e-4)


def test_parameters_are_float32_over_a_bfloat16_base():
    base = nn.Linear(16, 8, bias=False, dtype=torch.bfloat16)
    layer = LoraLinear(base, rank=2, alpha=4.0)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(5, 16, dtype=torch.bfloat16)
    out = layer(x)
    assert out.dtype == torch.bfloat16
    assert layer.lora_a.dtype == layer.lora_b.dtype == torch.float32
    out.float().sum().backward()
    assert layer.lora_a.grad.dtype == torch.float32
    wanted = x.float() @ (base.weight.float() + 2.0 * layer.lora_b @ layer.lora_a).T
    assert (out.float() - wanted).norm() <= 1e-2 * wanted.norm()


def test_merge_is_the_same_function_and_unmerge_is_exact(tiny, tokens):
    apply_lora(tiny, LoraConfig(rank=4))
    randomise(tiny)
    frozen = {name: p.clone() for name, p in tiny.named_parameters()}
    before = tiny(tokens).logits
    torch.testing.assert_close(merge_lora(tiny)(tokens).logits, before, rtol=1e-4, atol=1e-4)
    layer = next(module for _, module in lora_modules(tiny))
    assert layer.merged
    assert not torch.equal(layer.weight, frozen["model.layers.0.self_attn.q_proj.weight"])
    merge_lora(tiny)  # a second time adds nothing
    unmerge_lora(tiny)
    assert all(torch.equal(p, frozen[name]) for name, p in tiny.named_parameters())
    assert torch.equal(tiny(tokens).logits, before)


def test_a_state_dict_is_the_same_merged_or_not_and_loading_one_ends_a_merge(tiny, tokens):
    apply_lora(tiny, LoraConfig(rank=4))
    randomise(tiny)
    before, logits = copy.deepcopy(tiny.state_dict()), tiny(tokens).logits
    merged = merge_lora(tiny).state_dict()
    assert merged.keys() == before.keys()
    assert all(torch.equal(merged[name], weight) for name, weight in before.items())
    tiny.load_state_dict(before)
    assert not any(layer.merged for _, layer in lora_modules(tiny))
    assert torch.equal(tiny(tokens).logits, logits)


def test_a_merged_model_that_moves_takes_its_frozen_weights_along(tiny, tokens):
    apply_lora(tiny, LoraConfig(rank=4))
    randomise(tiny)
    want = copy.deepcopy(tiny).double()(tokens).logits
    unmerge_lora(merge_lora(tiny).double())
    torch.testing.assert_close(tiny(tokens).logits, want)


def test_state_dict_round_trip_and_mismatches(tiny):
    apply_lora(tiny, LoraConfig(rank=4))
    state = {name: torch.randn_like(t) for name, t in lora_state_dict(tiny).items()}
    load_lora_state_dict(tiny, state)
    assert all(torch.equal(t, state[name]) for name, t in lora_state_dict(tiny).items())
    name = next(iter(state))
    with pytest.raises(ConfigError, match="in the model only"):
        load_lora_state_dict(tiny, {k: v for k, v in state.items() if k != name})
    with pytest.raises(ConfigError, match=r"must have shape \[4, 64\], got \[5, 64\]"):
        load_lora_state_dict(tiny, {**state, name: torch.zeros(5, 64)})


def dropped(seed=0, step=None, dropout=0.5, path="a"):
    layer = LoraLinear(
        nn.Linear(64, 8), rank=4, alpha=4.0, dropout=dropout, path=path, seed=seed
    ).train()
    layer.weight.zero_()
    layer.bias.zero_()
    layer.lora_a.data.fill_(1.0)
    layer.lora_b.data.fill_(1.0)
    layer.dropout_step = step
    return layer


def test_dropout_hits_the_update_only_and_keeps_its_mean():
    layer = dropped(step=0)
    out = layer(torch.ones(4000, 64)).detach()[:, 0] / 4
    assert abs(float(out.mean()) - 64) < 1
    assert abs(float(out.std()) - 8) < 0.5
    assert torch.equal(layer.eval()(torch.ones(1, 64)), torch.full((1, 8), 256.0))


def test_dropout_masks_follow_seed_path_and_step():
    x = torch.ones(3, 64)
    first = dropped(step=3)(x)
    assert torch.equal(dropped(step=3)(x), first)
    for other in ({"step": 4}, {"step": 3, "path": "b"}, {"step": 3, "seed": 1}):
        assert not torch.equal(dropped(**other)(x), first)
    layer = dropped()
    assert not torch.equal(layer(x), layer(x))  # without a step, torch's own generator


def test_set_dropout_step_reaches_every_layer(tiny, tokens):
    apply_lora(tiny, LoraConfig(rank=4, dropout=0.3)).train()
    randomise(tiny)
    set_dropout_step(tiny, 1)
    first = tiny(tokens).logits
    assert torch.equal(tiny(tokens).logits, first)
    set_dropout_step(tiny, 2)
    assert not torch.equal(tiny(tokens).logits, first)
