"""A patched model trains as it did: the same loss and gradients, for every architecture."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

import crucible_kitchen as ck
from crucible_kitchen.integrations.patching import ARCHITECTURES

from .models import CONFIGS, assert_same_step, step, tiny, with_lora

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

# float32: sums in another order. bfloat16: 8 bits, rounded in other places, over some ten layers.
FLOAT32, BFLOAT16 = 1e-5, 6e-2


def test_every_architecture_is_tested() -> None:
    assert sorted(CONFIGS) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("name", CONFIGS)
def test_lora_on_every_architecture(name: str) -> None:
    model = with_lora(tiny(name))
    plain = copy.deepcopy(model)
    report = ck.patch(model)
    ops = Counter(part.op for part in report.patched)
    assert ops["linear_cross_entropy"] == 1
    assert ops["lora_linear"] == (8 if name == "phi3" else 14)
    assert ops["swiglu"] == (0 if "gemma" in name else 2)
    assert (ops["rms_norm"] > 0) == (name != "stablelm")
    assert_same_step(model, plain, FLOAT32)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_dora(name: str) -> None:
    model = with_lora(tiny(name), use_dora=True)
    plain = copy.deepcopy(model)
    assert sum(part.op == "lora_linear" for part in ck.patch(model).patched) == 14
    assert_same_step(model, plain, FLOAT32)
    assert_same_step(model.eval(), plain.eval(), FLOAT32)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_weights_of_every_architecture(name: str) -> None:
    model = tiny(name)
    plain = copy.deepcopy(model)
    ck.patch(model)
    assert_same_step(model, plain, FLOAT32)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "phi3", "olmo2"])
def test_in_bfloat16(name: str) -> None:
    """Both round in places of their own; ours is no further from float64 than the model's code."""
    model = with_lora(tiny(name).bfloat16())
    plain, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    assert {part.op for part in ck.patch(model).patched} >= {"lora_linear", "rms_norm"}
    (loss, grads), (_, theirs), (want, wants) = step(model), step(plain), step(exact)
    assert abs(loss - want) <= BFLOAT16 * want
    for name_, grad in wants.items():
        assert (grads[name_] - grad).norm() <= BFLOAT16 * grad.norm(), name_
    assert distance(grads, wants) <= distance(theirs, wants)


def distance(got: dict[str, torch.Tensor], wants: dict[str, torch.Tensor]) -> float:
    return float(sum((got[name] - want).square().sum() for name, want in wants.items()))


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_under_autocast(name: str) -> None:
    """As trainers run a float32 model with ``bf16=True``."""
    model = with_lora(tiny(name))
    plain = copy.deepcopy(model)
    ck.patch(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_step(model, plain, BFLOAT16)
