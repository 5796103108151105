"""What training has left behind: ask it, and write it for other programs."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Final

from crucible_kitchen import bootstrap, report
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.ports import Completer

_WEIGHTS: Final = "adapter_config.json"


def find_completer(model: str, *, base: bool = False) -> Completer:
    """A completer on this machine, to be closed by the caller.

    Args:
        model: a run's folder or one of LoRA weights, which it puts on the model they belong to; a
            model's folder; or a hub's name.
        base: of the first two, leave the LoRA weights away.
    Raises:
        ConfigError: there is no such model, or the run has saved no adapter.
        PortError: the weights cannot be read, or the hub cannot give the model.
    """
    folder = Path(model).expanduser()
    options: dict[str, Any] = {}
    if (folder / report.EVENTS).is_file():
        model, options = _trained(folder, base)
    elif (folder / _WEIGHTS).is_file():
        options = {} if base else {"checkpoint_path": str(folder)}
        model = importlib.import_module("crucible_kitchen.nn").saved_lora(folder).base_model
    make = bootstrap.load_adapter("completer", "local")
    completer: Completer = make(model, hub_client=bootstrap.find_hub(model), **options)
    return completer


def _trained(folder: Path, base: bool) -> tuple[str, dict[str, Any]]:
    """The model of a run, and the completer's options that put what it learnt on it."""
    config = report.read_run(folder).about["config"]
    if "model" not in config:
        raise ConfigError(f"complete: {folder} is the folder of a run that trains no model")
    options = {"dtype": config["dtype"]} if "dtype" in config else {}
    if base:
        return config["model"], options
    adapter = folder / "adapter"
    if not adapter.is_dir():
        raise ConfigError(
            f"complete: {folder} must hold an adapter, got none; --base asks {config['model']}"
        )
    return config["model"], {**options, "checkpoint_path": str(adapter)}


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "peft",  # noqa: A002 - what users call it
    dtype: str | None = None,
    model: str | None = None,
) -> Any:
    """Write trained weights for others to load; see `adapters.local.export`.

    Args:
        source: a run's folder, or one of LoRA weights.
        model: the model they belong to, where it is not the one that is written down.
    """
    hub = None if model is None else bootstrap.find_hub(model)
    return bootstrap.load_exporter()(
        source, out, form=format, dtype=dtype, model=model, hub_client=hub
    )
