"""Tiny random models of every architecture that `patch` takes."""

from __future__ import annotations

import copy

import torch
import transformers
from torch import nn

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Settings that show a part which is left out: Granite's factors, Gemma's cap, biases, tied heads.
CONFIGS = {
    "gemma": transformers.GemmaConfig(**SIZES, head_dim=8),
    "gemma2": transformers.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
    "gemma3_text": transformers.Gemma3TextConfig(**SIZES, head_dim=8),
    "granite": transformers.GraniteConfig(**SIZES, logits_scaling=3.0, residual_multiplier=0.5),
    "llama": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=4),
    "olmo2": transformers.Olmo2Config(**SIZES),
    "phi3": transformers.Phi3Config(**SIZES),
    "qwen2": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=8),
    "smollm3": transformers.SmolLM3Config(**SIZES),
    "stablelm": transformers.StableLmConfig(**SIZES, use_qkv_bias=True),
}


def tiny(name: str, kind: type = transformers.AutoModelForCausalLM) -> nn.Module:
    """A model of an architecture, in training mode, whose weights are all of their own."""
    torch.manual_seed(0)
    model = kind.from_config(copy.deepcopy(CONFIGS[name]))
    for name_, weight in model.named_parameters():
        if weight.ndim == 1:  # norms start at one and biases at zero, where a lost one is not seen
            weight.data.add_(torch.randn_like(weight) * 0.2)
        elif "embed" not in name_:
            weight.data.normal_(std=weight.shape[1] ** -0.5)
    return model.train()


def with_lora(model: nn.Module, **options: object) -> nn.Module:
    """PEFT's LoRA on every linear but the head, with a B that is not zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
    settings.setdefault("init_lora_weights", False)
    return get_peft_model(model, LoraConfig(**settings))


def batch() -> dict[str, torch.Tensor]:
    """Two rows, of which the second is padded on the right and both have an untrained prompt."""
    tokens = torch.randint(3, 96, (2, 11), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(tokens)
    mask[1, 8:] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def step(model: nn.Module, **more: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step."""
    model.zero_grad()
    loss = model(**{**batch(), **more}).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


def assert_same_step(model: nn.Module, plain: nn.Module, tolerance: float, **more: object) -> None:
    """Equal loss and gradients, relative to the size of each."""
    (loss, grads), (want, wants) = step(model, **more), step(plain, **more)
    assert abs(loss - want) <= tolerance * abs(want)
    assert grads.keys() == wants.keys()
    for name, grad in wants.items():
        error = (grads[name] - grad).float().norm()
        assert error <= tolerance * grad.float().norm(), name
