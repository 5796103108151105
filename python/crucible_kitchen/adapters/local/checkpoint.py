"""A session on disk: the adapter in PEFT's format, the optimizer's state, and the counters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crucible_kitchen import nn
from crucible_kitchen.errors import PortError
from crucible_kitchen.nn.peft_format import write_lora

if TYPE_CHECKING:
    from crucible_kitchen.adapters.local.trainer import Trainer

_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "trainer_state.json"
_FORMAT = 1
_KEYS = ("step", "exp_avg", "exp_avg_sq")


def save(trainer: Trainer, path: Path) -> str:
    """Write a checkpoint, whole or not at all.

    Raises:
        PortError: it could not be written; what was at `path` before still is.
    """
    state = {
        "format": _FORMAT,
        "step": trainer.steps,
        "trained_passes": trainer.trained_passes,
        "seed": trainer.config.seed,
    }
    with nn.atomic_folder(path, doing="training_client: save_checkpoint") as folder:
        write_lora(trainer.model.model, folder, base_model=trainer.config.model)
        save_file(_moments(trainer), folder / _OPTIMIZER_FILE)
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return str(path)


def load(trainer: Trainer, path: Path) -> None:
    """Put a session back to what it was when `save` wrote `path`; waiting gradients are dropped.

    Raises:
        PortError: there is no checkpoint, or it cannot be read, or it is of another update than
            this session trains.
    """
    state, moments = _read(path)
    trainer.model.load_adapter(path)
    trainer.optimizer.zero_grad()
    trainer.optimizer.load_state_dict(_optimizer_state(trainer, moments))
    trainer.steps, trainer.trained_passes = state["step"], state["trained_passes"]


def is_checkpoint(path: Path) -> bool:
    """Whether `path` holds more than an adapter."""
    return (path / _STATE_FILE).exists()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        state = json.loads((path / _STATE_FILE).read_text(encoding="utf-8"))
        moments = load_file(path / _OPTIMIZER_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise PortError(f"training_client: could not read checkpoint {path}: {error}") from error
    if state.get("format") != _FORMAT:
        raise PortError(
            f"training_client: checkpoint must have format {_FORMAT}, got {state.get('format')!r} "
            f"in {path}"
        )
    return state, moments


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    """The optimizer's tensors, under the names of the parameters they belong to."""
    tensors = {}
    names = nn.trained_state_dict(trainer.model.model)
    for name, parameter in zip(names, trainer.parameters, strict=True):
        for key, value in trainer.optimizer.state[parameter].items():
            tensors[f"{name}.{key}"] = torch.as_tensor(value).detach().contiguous()
    return tensors


def _optimizer_state(trainer: Trainer, moments: dict[str, Tensor]) -> dict[str, Any]:
    """Those tensors as a `state_dict` of the optimizer; a parameter never stepped has none."""
    saved: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(nn.trained_state_dict(trainer.model.model)):
        own = {key: moments.pop(f"{name}.{key}") for key in _KEYS if f"{name}.{key}" in moments}
        if own:
            saved[index] = own
    if moments:
        raise PortError(f"training_client: optimizer state of unknown {next(iter(moments))!r}")
    return {**trainer.optimizer.state_dict(), "state": saved}
