"""LoRA weights on disk in PEFT's format, in both directions.

The format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.nn.lora import (
    LoraConfig,
    apply_lora,
    load_lora_state_dict,
    lora_modules,
    lora_state_dict,
)
from crucible_kitchen.nn.saving import atomic_folder

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SUFFIXES = {".lora_A.weight": ".lora_a", ".lora_B.weight": ".lora_b"}
# What PEFT can express and one scaled pair of matrices a layer cannot; the value means "not used".
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "alpha_pattern": (None, {}),
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "trainable_token_indices": (None, [], {}),
    "use_dora": (None, False),
}


def save_lora(model: nn.Module, path: str | os.PathLike[str], *, base_model: str = "") -> str:
    """Write a model's LoRA weights as a folder that PEFT loads, whole or not at all.

    Args:
        base_model: the name or folder of the model they belong to.

    Returns:
        The folder.

    Raises:
        PortError: it could not be written.
    """
    with atomic_folder(path, doing="lora: save") as folder:
        write_lora(model, folder, base_model=base_model)
    return str(path)


def write_lora(model: nn.Module, folder: Path, *, base_model: str = "") -> None:
    """Write the two files of `save_lora` into a folder that exists."""
    config = _peft_config(model, base_model)
    tensors = {_peft_name(name): t.contiguous() for name, t in lora_state_dict(model).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_lora(model: nn.Module, path: str | os.PathLike[str], *, seed: int = 0) -> LoraConfig:
    """Read a folder that `save_lora` or PEFT wrote; a model without LoRA gets it where it belongs.

    Returns:
        The configuration that was read.

    Raises:
        PortError: the folder is missing or unreadable.
        ConfigError: it does not fit the model, or asks for what we do not compute.
    """
    config, tensors = _read(Path(path))
    state = {_our_name(name): tensor for name, tensor in tensors.items()}
    targets = sorted({name.rpartition(".")[0] for name in state})
    lora = LoraConfig(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout") or 0.0,
        use_rslora=bool(config.get("use_rslora")),
        targets=targets,
        seed=seed,
    )
    layers = [module for _, module in lora_modules(model)]
    if not layers:
        apply_lora(model, lora)
    for module in layers:
        ours, saved = (module.alpha, module.use_rslora), (lora.alpha, lora.use_rslora)
        if ours != saved:
            raise ConfigError(f"lora: (alpha, use_rslora) must be {ours}, got {saved} in {path}")
    load_lora_state_dict(model, state)
    return lora


def _peft_config(model: nn.Module, base_model: str) -> dict[str, Any]:
    modules = dict(lora_modules(model))
    if not modules:
        raise ConfigError("lora: model must have LoRA on some layer, got none")
    first = next(iter(modules.values()))
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "peft_type": "LORA",
        "r": first.rank,
        "target_modules": _target_modules(model, list(modules)),
        "task_type": "CAUSAL_LM",
        "use_rslora": first.use_rslora,
    }


def _target_modules(model: nn.Module, paths: list[str]) -> list[str]:
    """Short names such as ``q_proj`` where they mean exactly these layers, else the full paths."""
    names = {path.rpartition(".")[2] for path in paths}
    linears = (p for p, m in model.named_modules() if isinstance(m, nn.Linear))
    ambiguous = any(path.rpartition(".")[2] in names for path in linears)
    return sorted(paths if ambiguous else names)


def _peft_name(name: str) -> str:
    path, _, matrix = name.rpartition(".")
    return f"{_PREFIX}{path}.lora_{matrix[-1].upper()}.weight"


def _our_name(name: str) -> str:
    for suffix, ours in _SUFFIXES.items():
        if name.startswith(_PREFIX) and name.endswith(suffix):
            return name[len(_PREFIX) : -len(suffix)] + ours
    raise ConfigError(f"lora: weights must be lora_A and lora_B matrices, got {name!r}")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise PortError(f"lora: {folder} must be a folder with {file}, got none there")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise PortError(f"lora: could not read {folder}: {error}") from error
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"lora: peft_type must be 'LORA', got {config.get('peft_type')!r}")
    for key, unused in _UNSUPPORTED.items():
        if config.get(key) not in unused:
            raise ConfigError(f"lora: {key} must be unused, got {config[key]!r} in {folder}")
    return config, tensors
