"""The last layer at the rows that are wanted gives what the whole layer gives there."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from crucible_kitchen import nn
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.packed import Packed

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=3)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8)),
}
KNOWN = ("llama", "mistral")
# Of two sequences with one beginning; 3 and 9 are asked for twice, as shared positions are.
ROWS = torch.tensor([9, 3, 4, 3, 11, 9])


@pytest.fixture(params=MODELS)
def model(request, tmp_path):
    kind, config = MODELS[request.param]
    kind(config).save_pretrained(tmp_path)
    loaded = CausalModel.load(tmp_path, dtype="float32", device="cpu")
    nn.apply_lora(loaded.model, nn.LoraConfig(rank=2))
    generator = torch.Generator().manual_seed(2)
    for parameter in nn.lora_parameters(loaded.model):
        parameter.data.normal_(std=0.1, generator=generator)
    return loaded


@pytest.fixture
def packed():
    start = [5, 6, 7, 8, 9]
    sequences = [[*start, 3, 4, 11], [*start, 12, 13, 14, 15]]
    return Packed.of(sequences, torch.device("cpu"), share_at_least=2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_hidden_states_and_gradients(model, packed, checkpointing):
    if checkpointing:
        model.checkpoint_gradients()
        model.model.train()
    parameters = nn.lora_parameters(model.model)
    slope = torch.randn(len(ROWS), 32, generator=torch.Generator().manual_seed(3))
    made = []
    for hidden in (model.hidden(packed, ROWS), model.hidden(packed).index_select(0, ROWS)):
        made.append([hidden, *torch.autograd.grad(hidden, parameters, slope)])
    for got, want in zip(*made, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_queries_and_mlp_are_computed_at_those_rows_alone(model, packed):
    last = model.model.base_model.layers[-1]
    seen = {}
    for name in ("q_proj", "k_proj", "o_proj"):
        part = getattr(last.self_attn, name)
        part.register_forward_hook(lambda _, args, y, name=name: seen.update({name: y.shape[-2]}))
    last.mlp.register_forward_hook(lambda _, args, y: seen.update(mlp=y.shape[-2]))
    model.hidden(packed, ROWS)
    few = 4 if model.model.config.model_type in KNOWN else len(packed.tokens)
    assert seen == {"q_proj": few, "k_proj": len(packed.tokens), "o_proj": few, "mlp": few}


def test_every_row_and_one_row(model, packed):
    want = model.hidden(packed)
    everything = torch.arange(len(packed.tokens)).flip(0)
    for rows in (everything, torch.tensor([6])):
        torch.testing.assert_close(model.hidden(packed, rows), want[rows], rtol=1e-4, atol=1e-5)
