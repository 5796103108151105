"""Attention over packed sequences, and which models are refused because it would be wrong."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
)

from crucible_kitchen import ops
from crucible_kitchen.adapters.local.attention import varlen_attention
from crucible_kitchen.adapters.local.device import resolve_device, resolve_dtype
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.packed import Packed
from crucible_kitchen.errors import KernelError, PortError
from crucible_kitchen.ops import _frozen_linear

LENGTHS = (5, 1, 9, 3)


def qkv(heads=4, kv_heads=2, total=18, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, total), (kv_heads, total), (kv_heads, total))
    return [
        torch.randn(1, *shape, width, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def plain(query, key, value, window=None):
    """Softmax attention written out, for one sequence."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    rows = torch.arange(query.shape[2])
    distance = rows[:, None] - rows[None, :]
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_each_segment_attends_to_itself_alone(window, kv_heads):
    inputs = qkv(kv_heads=kv_heads)
    got, _ = varlen_attention(
        torch.nn.Identity(), *inputs, None, segments=LENGTHS, sliding_window=window
    )
    parts = zip(*(t.split(list(LENGTHS), dim=2) for t in inputs), strict=True)
    want = torch.cat([plain(*part, window=window) for part in parts], dim=1)
    torch.testing.assert_close(got, want)
    slope = torch.randn_like(want)
    for one, other in zip(
        torch.autograd.grad(got, inputs, slope),
        torch.autograd.grad(want, inputs, slope),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_queries_after_a_cache_see_the_keys_before_them():
    query, key, value = qkv()
    whole, _ = varlen_attention(torch.nn.Identity(), query, key, value, None)
    for last in (1, 4):
        got, _ = varlen_attention(torch.nn.Identity(), query[:, :, -last:], key, value, None)
        torch.testing.assert_close(got, whole[:, -last:])


@pytest.mark.parametrize("option", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}])
def test_another_kind_of_attention_is_refused(option):
    with pytest.raises(KernelError, match=next(iter(option))):
        varlen_attention(torch.nn.Identity(), *qkv(), None, **option)


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_a_model_with_a_sliding_window(tmp_path):
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=3)).eval()
    model.save_pretrained(tmp_path)
    ours = CausalModel.load(tmp_path, dtype="float32", device="cpu")
    tokens = torch.arange(3, 23)[None]
    model.set_attn_implementation("eager")
    want = model.model(tokens).last_hidden_state[0]
    got = ours.hidden(Packed.of([[5, 6], tokens[0].tolist()], torch.device("cpu")))[2:]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_model_that_scales_its_logits_is_refused(tmp_path):
    GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)).save_pretrained(tmp_path)
    with pytest.raises(PortError, match="GraniteForCausalLM is not supported"):
        CausalModel.load(tmp_path, dtype="float32", device="cpu")


def test_a_head_with_a_bias_is_refused(tiny_folder):
    model = CausalModel.load(tiny_folder, dtype="float32", device="cpu")
    model.head.bias = torch.nn.Parameter(torch.zeros(512))
    with pytest.raises(PortError, match="must have no bias"):
        model._use_our_own()


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(PortError, match="could not load model"):
        CausalModel.load(tmp_path, dtype="float32", device="cpu")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip under a name of ours" * 9])
def test_weights_that_are_not_what_their_name_says(tiny_folder, tmp_path, data):
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(data)
    with pytest.raises(PortError, match=r"could not load model .*header"):
        CausalModel.load(tmp_path / "model", dtype="float32", device="cpu")


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
def test_a_quantised_model_is_refused_in_our_words(tiny_folder, tmp_path, method):
    """With its library or without it, which says so itself."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    kind = {"quant_method": method, "load_in_4bit": True, "bits": 4}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": kind}))
    with pytest.raises(PortError, match="local model: "):
        CausalModel.load(tmp_path / "model", dtype="float32", device="cpu")


def test_weights_of_fewer_bits_are_refused(tiny_folder, monkeypatch):
    read = AutoModelForCausalLM.from_pretrained

    def quantised(*args, **kwargs):
        model = read(*args, **kwargs)
        codes = torch.zeros(4, 1, dtype=torch.uint8)
        model.lm_head.weight = torch.nn.Parameter(codes, requires_grad=False)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", quantised)
    with pytest.raises(PortError, match=r"got lm_head.weight in torch.uint8 .* is quantised"):
        CausalModel.load(tiny_folder, dtype="float32", device="cpu")


def test_device_and_dtype_by_name():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(PortError, match="got 'gpu9'"):
        resolve_device("gpu9")
    cpu = torch.device("cpu")
    assert resolve_dtype("bfloat16", cpu, "nowhere") is torch.bfloat16
    assert resolve_dtype("float32", cpu, "nowhere") is torch.float32
    with pytest.raises(PortError, match="float16"):
        resolve_dtype("float16", cpu, "nowhere")


@pytest.mark.parametrize("pays", [False, True])
@pytest.mark.parametrize("native", [False, True])
def test_auto_is_the_dtype_that_is_faster(tiny_folder, tmp_path, monkeypatch, native, pays):
    """Experts are weights that our kernels do not multiply by."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(_frozen_linear, "PAYS", pays)
    MixtralConfig(**SIZES, num_local_experts=4).save_pretrained(tmp_path)
    dtypes = {True: torch.bfloat16, False: torch.float32}
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu, tiny_folder) is dtypes[native or pays]
    assert resolve_dtype("auto", cpu, tmp_path) is dtypes[native]
    assert CausalModel.load(tiny_folder, device="cpu").dtype in str(dtypes[native or pays])


def test_auto_needs_a_configuration_that_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_frozen_linear, "PAYS", True)
    with pytest.raises(PortError, match="could not load model"):
        CausalModel.load(tmp_path, device="cpu")


def test_rope_is_ours_where_there_is_no_cache(tiny_folder, monkeypatch):
    model = CausalModel.load(tiny_folder, dtype="float32", device="cpu")
    turned = []
    rope = ops.rope
    monkeypatch.setattr(ops, "rope", lambda x, *angles: turned.append(x.shape) or rope(x, *angles))
    packed = Packed.of([[5, 6, 7], [8, 9]], torch.device("cpu"))
    got = model.hidden(packed)
    assert turned == [(5, 4, 16), (5, 2, 16)] * 2  # queries and keys of both layers
    cached = model.model.base_model(torch.tensor([[5, 6, 7]]), use_cache=True).last_hidden_state
    assert len(turned) == 4
    torch.testing.assert_close(got[:3], cached[0], rtol=1e-5, atol=1e-5)
