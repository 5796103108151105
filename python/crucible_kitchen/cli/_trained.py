"""What training has left behind: ask it, and write it for other programs."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Final

from crucible_kitchen import bootstrap
from crucible_kitchen.ports import Completer

_WEIGHTS: Final = "adapter_config.json"


def find_completer(model: str, *, base: bool = False) -> Completer:
    """`bootstrap.find_completer`, also for a folder of LoRA weights, which names its model itself.

    Args:
        model: a run's folder or one of LoRA weights, which it puts on the model they belong to; a
            model's folder; or a hub's name.
        base: of the first two, leave the LoRA weights away.
    Raises:
        ConfigError: there is no such model, or the run has saved no adapter.
        PortError: the weights cannot be read, or the hub cannot give the model.
    """
    folder = Path(model).expanduser()
    if not (folder / _WEIGHTS).is_file():
        return bootstrap.find_completer(model, base=base)
    saved = importlib.import_module("crucible_kitchen.nn").saved_lora(folder)
    completer: Completer = bootstrap.load_adapter("completer", "local")(
        saved.base_model,
        checkpoint_path=None if base else str(folder),
        hub_client=bootstrap.find_hub(saved.base_model),
    )
    return completer


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
