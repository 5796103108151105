"""What is exported is what was trained, for PEFT, for transformers and in llama.cpp's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from crucible_kitchen.adapters.local import Completer, RewardModel, TrainingClient, export
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.testing.tiny_model import tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXT = "def length(items): return 12 of the items\n"


def train(base: str, folder: Path, *, head: str = "vocabulary", rate: float = 2e-2) -> Path:
    """LoRA weights that change much."""
    client = TrainingClient(device="cpu")
    config = {"model": base, "dtype": "float32", "lora_rank": 4, "head": head}
    session = client.start_session(config)
    datum = {"model_input": [5, 6, 7], "loss_fn_inputs": {"labels": [5, 6, 7]}}
    for _ in range(5):
        if head == "scalar":
            client.forward_backward_custom(
                session, [datum], lambda _, scores: (-scores[0].sum(), {})
            )
        else:
            client.forward_backward(session, [datum])
        client.optim_step(session, rate)
    saved = client.save_weights_for_sampler(session, str(folder)).result()
    client.close()
    return Path(saved)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory) -> Path:
    return train(base, tmp_path_factory.mktemp("lora") / "weights")


@pytest.fixture(scope="module")
def tokens(base):
    return AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt").input_ids


@pytest.fixture(scope="module")
def trained(base, lora, tokens):
    """The logits by PEFT and transformers alone."""
    peft = pytest.importorskip("peft")
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora)
    return logits(model, tokens)


@torch.no_grad()
def logits(model, tokens):
    return model.eval()(tokens).logits[0].float()


def distance(got, want) -> float:
    return float((got - want).norm() / want.norm())


def test_peft_loads_what_is_written_for_it(base, lora, tokens, trained, tmp_path) -> None:
    from peft import PeftModel

    done = export(lora, tmp_path / "out", form="peft")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), done.path)
    assert distance(logits(again, tokens), trained) < 1e-6
    assert done.error == 0.0
    config = json.loads((done.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base


@pytest.mark.parametrize(("dtype", "near"), [(None, 1e-5), ("bfloat16", 3e-2), ("float16", 4e-3)])
def test_transformers_loads_a_merged_model(lora, tokens, trained, tmp_path, dtype, near) -> None:
    done = export(lora, tmp_path / "out", form="merged", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(done.path)
    assert model.dtype == getattr(torch, dtype or "float32")
    assert distance(logits(model.float(), tokens), trained) < near
    assert 0 < done.error < near
    tokenizer = AutoTokenizer.from_pretrained(done.path)
    assert tokenizer(TEXT).input_ids == tokens[0].tolist()
    assert tokenizer.chat_template
    assert done.size == sum(file.stat().st_size for file in done.path.iterdir())


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "q8_0"])
def test_a_gguf_holds_the_trained_model(lora, tokens, trained, tmp_path, dtype) -> None:
    done = export(lora, tmp_path / "out", form="gguf", dtype=dtype)
    (file,) = done.path.iterdir()
    assert file.name == f"weights-{dtype or 'float16'}.gguf"
    # transformers reads it into float32 itself.
    model = AutoModelForCausalLM.from_pretrained(done.path, gguf_file=file.name, dtype="float32")
    near = {"float32": 1e-5, "bfloat16": 3e-2, "q8_0": 6e-2}.get(dtype, 4e-3)
    assert distance(logits(model, tokens), trained) < near
    reader = GGUFReader(file)
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("tokenizer.ggml.pre").contents() == "gpt-2"
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == 2
    assert "<|im_start|>" in reader.get_field("tokenizer.chat_template").contents()
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    wanted = {"float32": "F32", "bfloat16": "BF16", "q8_0": "Q8_0"}.get(dtype, "F16")
    assert kinds["blk.0.attn_q.weight"] == wanted
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert "output.weight" not in kinds, "the head is tied"


@pytest.mark.parametrize("form", ["merged", "gguf"])
def test_what_is_exported_chats(lora, tmp_path, form, base) -> None:
    question = [{"role": "user", "content": "Count."}]
    done = export(lora, tmp_path / "out", form=form, dtype="float32")
    one, two = (
        Completer(base, checkpoint_path=str(lora), dtype="float32", device="cpu"),
        Completer(str(done.path), dtype="float32", device="cpu"),
    )
    answers = [c.complete(question, max_tokens=12, temperature=0.0).text for c in (one, two)]
    assert answers[0] == answers[1]
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("kind", "split"),
    # transformers gives Qwen's models Qwen's splitting, whatever their tokenizer says.
    [
        ("qwen2", "qwen2"),
        ("qwen3", "qwen2"),
        ("mistral", "gpt-2"),
        ("llama", "smollm"),
        ("llama", "llama-bpe"),
    ],
)
def test_other_models_and_tokenizers_are_written(tmp_path, kind, split) -> None:
    base = other_model(tmp_path / "base", kind, split)
    lora = train(base, tmp_path / "lora")
    done = export(lora, tmp_path / "out", form="gguf", dtype="float32")
    (file,) = done.path.iterdir()
    reader = GGUFReader(file)
    assert reader.get_field("tokenizer.ggml.pre").contents() == split
    names = {tensor.name for tensor in reader.tensors}
    assert "output.weight" in names, "the head is not tied"
    assert ("blk.0.attn_q.bias" in names) == (kind == "qwen2")


def other_model(folder: Path, kind: str, split: str) -> str:
    """A tiny model of another architecture, whose tokenizer splits text in another way."""
    from tokenizers import Regex, pre_tokenizers
    from transformers import AutoConfig

    from crucible_kitchen.adapters.local import gguf_writer

    tiny_llama(folder)
    sizes = {
        "vocab_size": 520,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": {"qwen3": 128, "mistral": 32}.get(kind, 16),
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    }
    more = {"sliding_window": None} if kind == "mistral" else {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more))
    for name, weight in model.named_parameters():
        weight.data.normal_(std=weight.shape[-1] ** -0.5)
        if "norm" in name:
            weight.data += 1.0
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in ("gpt-2", "smollm"))
    first = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "gpt-2": [],
    }.get(split)
    if first is None:
        (regex,) = (r for r, name in gguf_writer._SPLITS.items() if name == split)
        first = [pre_tokenizers.Split(Regex(regex), "isolated")]
    tokenizer.backend_tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([*first, plain]) if first else plain
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_reward_model_is_merged_into_a_classifier(base, tokens, tmp_path) -> None:
    lora = train(base, tmp_path / "lora", head="scalar")
    done = export(lora, tmp_path / "out", form="merged")
    model = AutoModelForSequenceClassification.from_pretrained(done.path)
    assert model.config.num_labels == 1
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = AutoTokenizer.from_pretrained(done.path).apply_chat_template(chat, return_tensors="pt")
    want = RewardModel(lora, dtype="float32", device="cpu").score("a", "b")
    assert logits(model, ids["input_ids"]).item() == pytest.approx(want, rel=1e-4)
    again = export(lora, tmp_path / "peft", form="peft")
    assert RewardModel(again.path, dtype="float32", device="cpu").score("a", "b") == want
    with pytest.raises(ConfigError, match="no place for its scalar head"):
        export(lora, tmp_path / "gguf", form="gguf")


def test_what_is_not_near_enough_is_refused_and_nothing_stays(lora, tmp_path, monkeypatch) -> None:
    from crucible_kitchen import nn

    def half_merged(model):
        state = nn.merged_state_dict(model)
        state["model.layers.1.mlp.down_proj.weight"] *= 1.01
        return state

    class Spoiled:
        def __getattr__(self, name):
            return half_merged if name == "merged_state_dict" else getattr(nn, name)

    monkeypatch.setattr("crucible_kitchen.adapters.local.exporter.nn", Spoiled())
    with pytest.raises(PortError, match=r"within 1e-04 of their norm, got .*nothing was kept"):
        export(lora, tmp_path / "out", form="merged")
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_too_coarse_for_what_was_learnt_is_refused(base, tmp_path) -> None:
    """An update of a ten-thousandth cannot be kept in eight bits."""
    lora = train(base, tmp_path / "lora", rate=1e-5)
    with pytest.raises(PortError, match=r"bfloat16 is too coarse: .* dtype=float32 keeps"):
        export(lora, tmp_path / "out", form="merged", dtype="bfloat16")
    assert export(lora, tmp_path / "out", form="merged").error < 1e-5


def test_another_tokenizer_is_noticed(base, lora, tmp_path, monkeypatch) -> None:
    def load(folder, *, port):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if folder != base:
            tokenizer.backend_tokenizer.pre_tokenizer = None
        return tokenizer

    monkeypatch.setattr("crucible_kitchen.adapters.local.exporter.load_tokenizer", load)
    with pytest.raises(PortError, match="into other tokens than the model's tokenizer"):
        export(lora, tmp_path / "out", form="merged")


def test_what_is_wrong_is_said(base, lora, tmp_path) -> None:
    with pytest.raises(ConfigError, match="must be one of peft, merged, gguf, got 'onnx'"):
        export(lora, tmp_path / "out", form="onnx")
    with pytest.raises(ConfigError, match="dtype of peft must be one of float32, got 'q8_0'"):
        export(lora, tmp_path / "out", form="peft", dtype="q8_0")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="must be a new or an empty folder"):
        export(lora, tmp_path / "full", form="peft")
    assert (tmp_path / "full" / "file").read_text() == "mine"
    with pytest.raises(PortError, match="adapter_config"):
        export(base, tmp_path / "out", form="peft")
    other = tiny_llama(tmp_path / "other", vocabulary=600)
    shutil.rmtree(tmp_path / "full")
    config = json.loads(Path(other, "config.json").read_text())
    Path(other, "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(PortError, match="does not fit"):
        export(lora, tmp_path / "out", form="merged", model=other)
    assert not (tmp_path / "out").exists()


def test_models_that_llama_cpp_would_compute_otherwise_are_refused(tmp_path) -> None:
    base = tiny_llama(tmp_path / "base")
    lora = train(base, tmp_path / "lora")
    config = json.loads(Path(base, "config.json").read_text())
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    Path(base, "config.json").write_text(json.dumps({**config, "rope_parameters": scaled}))
    with pytest.raises(PortError, match="rotary positions must be plain, got 'linear'"):
        export(lora, tmp_path / "out", form="gguf")
    export(lora, tmp_path / "out", form="merged")
