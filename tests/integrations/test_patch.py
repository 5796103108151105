"""A patched model trains as it did: the same loss and gradients, for every architecture."""

from __future__ import annotations

import copy
import statistics
from collections import Counter

import pytest
import torch
import transformers

import crucible_kitchen as ck
from crucible_kitchen.integrations.patching import ARCHITECTURES

from .models import CONFIGS, SIZES, assert_same_step, batch, step, tiny, with_lora

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
    (loss, grads), (want, wants) = step(model), step(exact)
    assert abs(loss - want) <= BFLOAT16 * want
    for name_, grad in wants.items():
        assert (grads[name_] - grad).norm() <= BFLOAT16 * grad.norm(), name_
    # Of one batch either may be nearer, four times even: what counts is the mean over several.
    ratios = []
    for seed in range(8):
        found, theirs, wants = (step(m, **drawn(seed))[1] for m in (model, plain, exact))
        ratios.append(distance(found, wants) / distance(theirs, wants))
    assert statistics.geometric_mean(ratios) <= 1, ratios


def drawn(seed: int) -> dict[str, torch.Tensor]:
    """Other tokens in the places of the batch."""
    like = batch()["labels"]
    tokens = torch.randint(3, 96, like.shape, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": tokens, "labels": tokens.masked_fill(like < 0, -100)}


def distance(got: dict[str, torch.Tensor], wants: dict[str, torch.Tensor]) -> float:
    return float(sum((got[name] - want).square().sum() for name, want in wants.items()))


def test_the_language_model_in_one_that_sees() -> None:
    """Gemma 3 from 4B on; tokens of an image look at each other, by a mask that is the model's."""
    config = transformers.Gemma3Config(
        text_config={**SIZES, "head_dim": 8},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        mm_tokens_per_image=4,
        image_token_index=95,
    )
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(config)
    model = with_lora(made, target_modules=r".*language_model.*(q|up)_proj").train()
    plain = copy.deepcopy(model)
    report = ck.patch(model)
    assert Counter(part.op for part in report.patched) == {"lora_linear": 4, "rms_norm": 13}
    assert "the model around it makes its masks" in {part.reason for part in report.left}
    pixels = torch.randn(2, 3, 8, 8)
    tokens = torch.randint(3, 90, (2, 11))
    tokens[:, 2:6] = 95
    seeing = {"input_ids": tokens, "labels": tokens, "token_type_ids": (tokens == 95).long()}
    assert_same_step(model, plain, FLOAT32, **seeing, pixel_values=pixels)
    report.undo()
    assert_same_step(model, plain, 0.0, **seeing, pixel_values=pixels)


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_under_autocast(name: str) -> None:
    """As trainers run a float32 model with ``bf16=True``."""
    model = with_lora(tiny(name))
    plain = copy.deepcopy(model)
    ck.patch(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_step(model, plain, BFLOAT16)
