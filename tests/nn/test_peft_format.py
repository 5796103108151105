"""Adapters on disk: PEFT reads ours, we read PEFT's, and a failed save leaves nothing behind."""

import copy
import errno
import json

import peft
import pytest
import torch

from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.nn import (
    LoraConfig,
    apply_lora,
    load_lora,
    lora_parameters,
    lora_state_dict,
    save_lora,
    saving,
)

# PEFT still asks transformers by the older of two names.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def trained(model, **config):
    apply_lora(model, LoraConfig(rank=4, alpha=6.0, **config))
    generator = torch.Generator().manual_seed(3)
    for parameter in lora_parameters(model):
        parameter.data.normal_(std=0.1, generator=generator)
    return model


@pytest.fixture
def fresh(tiny_folder):
    """Another copy of the tiny model."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["model.layers.1.mlp.up_proj"]])
def test_peft_loads_what_we_save(tiny, fresh, tokens, tmp_path, targets, use_rslora):
    wanted = trained(tiny, targets=targets, use_rslora=use_rslora)(tokens).logits
    folder = save_lora(tiny, tmp_path / "adapter", base_model="tiny")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]
    got = peft.PeftModel.from_pretrained(fresh, folder)(tokens).logits
    assert (got - wanted).norm() <= 1e-4 * wanted.norm()


def test_dora_to_peft_and_back(tiny, fresh, tokens, tmp_path):
    wanted = trained(tiny, dora=True)(tokens).logits
    folder = save_lora(tiny, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(fresh), folder)
    assert theirs.peft_config["default"].use_dora
    got = theirs(tokens).logits
    assert (got - wanted).norm() <= 1e-4 * wanted.norm()
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_lora(fresh, tmp_path / "theirs").dora
    state = lora_state_dict(tiny)
    assert len(state) == 3 * 14
    assert all(torch.equal(t, state[name]) for name, t in lora_state_dict(fresh).items())


def test_dora_and_plain_lora_do_not_mix(tiny, fresh, tmp_path):
    save_lora(trained(tiny, dora=True), tmp_path / "adapter")
    apply_lora(fresh, LoraConfig(rank=4, alpha=6.0))
    with pytest.raises(ConfigError, match="magnitude' in the saved weights only"):
        load_lora(fresh, tmp_path / "adapter")


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_we_load_what_peft_saves(tiny, fresh, tokens, tmp_path, targets):
    config = peft.LoraConfig(
        r=3, lora_alpha=5, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(tiny, config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    theirs.save_pretrained(tmp_path)
    wanted = theirs(tokens).logits
    read = load_lora(fresh, tmp_path)
    assert (read.rank, read.alpha, read.dropout) == (3, 5, 0.1)
    got = fresh(tokens).logits
    assert (got - wanted).norm() <= 1e-4 * wanted.norm()


def test_loading_into_a_model_that_has_lora(tiny, fresh, tmp_path):
    save_lora(trained(tiny), tmp_path / "adapter")
    apply_lora(fresh, LoraConfig(rank=4, alpha=6.0))
    load_lora(fresh, tmp_path / "adapter")
    wanted = lora_state_dict(tiny)
    assert all(torch.equal(t, wanted[name]) for name, t in lora_state_dict(fresh).items())


def test_another_scale_is_refused(tiny, fresh, tmp_path):
    save_lora(trained(tiny), tmp_path / "adapter")
    apply_lora(fresh, LoraConfig(rank=4, alpha=7.0))
    with pytest.raises(ConfigError, match=r"must be \(7.0, False\), got \(6.0, False\)"):
        load_lora(fresh, tmp_path / "adapter")


def test_what_we_do_not_compute_is_refused(tiny, fresh, tmp_path):
    folder = save_lora(trained(tiny), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_bias": True}))
    with pytest.raises(ConfigError, match="lora_bias must be unused"):
        load_lora(fresh, folder)


def test_a_missing_or_broken_folder_is_one_error(tiny, fresh, tmp_path):
    with pytest.raises(PortError, match="must be a folder with adapter_config"):
        load_lora(fresh, tmp_path / "nowhere")
    save_lora(trained(tiny), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(PortError, match="could not read"):
        load_lora(fresh, tmp_path / "adapter")


def test_saving_again_replaces_the_folder_as_a_whole(tiny, tmp_path):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "old").write_text("old")
    save_lora(trained(tiny), target)
    assert sorted(p.name for p in target.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_leaves_what_was_there(tiny, tmp_path, monkeypatch, before):
    trained(tiny)
    target = tmp_path / "adapter"
    if before:
        save_lora(tiny, target)
    saved = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "_flush", full)
    with pytest.raises(PortError, match="No space left on device"):
        save_lora(tiny, target)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == saved
    assert target.exists() == before
