"""LoRA weights on disk in PEFT's format, in both directions.

The format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
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
)
from crucible_kitchen.nn.saving import atomic_folder
from crucible_kitchen.nn.scalar_head import HEAD, scalar_head, trained_state_dict

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SUFFIXES = {
    ".lora_A.weight": ".lora_a",
    ".lora_B.weight": ".lora_b",
    ".lora_magnitude_vector": ".magnitude",
}
_HEAD_WEIGHT = f"{HEAD}.weight"
# What PEFT writes beside the head that it saved: names under which models may have one.
_HEAD_NAMES = frozenset({HEAD, "classifier"})
# What PEFT can express and one scaled pair of matrices a layer cannot; the value means "not used".
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "alpha_pattern": (None, {}),
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "rank_pattern": (None, {}),
    "trainable_token_indices": (None, [], {}),
}


def save_lora(model: nn.Module, path: str | os.PathLike[str], *, base_model: str = "") -> str:
    """Write a model's LoRA weights as a folder that PEFT loads, whole or not at all.

    With a scalar head, PEFT takes the folder for ``AutoModelForSequenceClassification`` with
    ``num_labels=1``.

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
    tensors = {_peft_name(name): t.contiguous() for name, t in trained_state_dict(model).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_lora(model: nn.Module, path: str | os.PathLike[str], *, seed: int = 0) -> LoraConfig:
    """Read a folder that `save_lora` or PEFT wrote; a model without LoRA gets it where it belongs.

    A scalar head in the folder is for a model that has one; one that has it keeps its own where
    the folder holds none.

    Returns:
        The configuration that was read.

    Raises:
        PortError: the folder is missing or unreadable.
        ConfigError: it does not fit the model, or asks for what we do not compute.
    """
    config, tensors = _read(Path(path))
    head_weight = _head_weight(model, tensors, path)
    state = {_our_name(name): tensor for name, tensor in tensors.items()}
    targets = sorted({name.rpartition(".")[0] for name in state})
    lora = LoraConfig(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout") or 0.0,
        use_rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
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
    head = scalar_head(model)
    if head is not None and head_weight is not None:
        head.weight.data.copy_(head_weight)
    return lora


@dataclass(frozen=True)
class SavedLora:
    """What a folder that PEFT loads says of itself.

    Args:
        path: the folder.
        base_model: name or folder of the model it belongs to; empty where it does not say.
        scored: whether it holds a scalar head beside the LoRA weights.
    """

    path: Path
    base_model: str
    scored: bool


def saved_lora(path: str | os.PathLike[str]) -> SavedLora:
    """Read what `save_lora` or PEFT wrote, without a model.

    Args:
        path: the folder, or that of a run, which has it as its ``adapter``.

    Raises:
        PortError: the folder is missing or unreadable.
        ConfigError: it asks for what we do not compute.
    """
    folder = Path(path).expanduser()
    if not (folder / CONFIG_FILE).is_file() and (folder / "adapter").is_dir():
        folder = folder / "adapter"
    config, tensors = _read(folder)
    base = config.get("base_model_name_or_path") or ""
    return SavedLora(folder, base, f"{_PREFIX}{_HEAD_WEIGHT}" in tensors)


def _head_weight(
    model: nn.Module, tensors: dict[str, Tensor], path: str | os.PathLike[str]
) -> Tensor | None:
    """The head's weight, taken out of what a folder holds."""
    weight = tensors.pop(f"{_PREFIX}{_HEAD_WEIGHT}", None)
    if weight is None:
        return None
    head = scalar_head(model)
    if head is None:
        raise ConfigError(
            f"lora: {os.fspath(path)} holds a reward model, which gives scores and no text; "
            "adapters.local.RewardModel loads it"
        )
    if weight.shape != head.weight.shape:
        wanted, got = list(head.weight.shape), list(weight.shape)
        raise ConfigError(f"lora: {_HEAD_WEIGHT} must have shape {wanted}, got {got} in {path}")
    return weight


def _peft_config(model: nn.Module, base_model: str) -> dict[str, Any]:
    modules = dict(lora_modules(model))
    if not modules:
        raise ConfigError("lora: model must have LoRA on some layer, got none")
    first = next(iter(modules.values()))
    scored = scalar_head(model) is not None
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "modules_to_save": [HEAD] if scored else None,
        "peft_type": "LORA",
        "r": first.rank,
        "target_modules": _target_modules(model, list(modules)),
        "task_type": "SEQ_CLS" if scored else "CAUSAL_LM",
        "use_dora": first.magnitude is not None,
        "use_rslora": first.use_rslora,
    }


def _target_modules(model: nn.Module, paths: list[str]) -> list[str]:
    """Short names such as ``q_proj`` where they mean exactly these layers, else the full paths."""
    names = {path.rpartition(".")[2] for path in paths}
    linears = (p for p, m in model.named_modules() if isinstance(m, nn.Linear))
    ambiguous = any(path.rpartition(".")[2] in names for path in linears)
    return sorted(paths if ambiguous else names)


def _peft_name(name: str) -> str:
    if name == _HEAD_WEIGHT:
        return f"{_PREFIX}{name}"
    for theirs, ours in _SUFFIXES.items():
        if name.endswith(ours):
            return f"{_PREFIX}{name.removesuffix(ours)}{theirs}"
    raise AssertionError(f"{name} is none of LoraLinear's")


def _our_name(name: str) -> str:
    for suffix, ours in _SUFFIXES.items():
        if name.startswith(_PREFIX) and name.endswith(suffix):
            return name[len(_PREFIX) : -len(suffix)] + ours
    raise ConfigError(f"lora: weights must be LoRA's matrices and magnitudes, got {name!r}")


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
    if odd := sorted({*(config.get("modules_to_save") or ())} - _HEAD_NAMES):
        raise ConfigError(f"lora: modules_to_save must be unused, got {odd} in {folder}")
    for key, unused in _UNSUPPORTED.items():
        if config.get(key) not in unused:
            raise ConfigError(f"lora: {key} must be unused, got {config[key]!r} in {folder}")
    return config, tensors
