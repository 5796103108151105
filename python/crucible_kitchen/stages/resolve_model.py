"""Find the folder that holds the model."""

from __future__ import annotations

from pathlib import Path

from crucible_kitchen.graph import stage
from crucible_kitchen.ports import HubClient

_WITHOUT_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = (".safetensors", ".gguf")


@stage(writes="model_path")
def resolve_model(model: str, *, hub_client: HubClient | None) -> str:
    """The model as the training client takes it.

    Args:
        model: a folder or file on this machine, which is taken as it is, or a hub's name.
        hub_client: fetches a name; without one the training client is given the name itself.
    Raises:
        PortError: the hub has no such model, or cannot be reached.
    """
    local = Path(model).expanduser()
    if local.exists():
        return str(local)
    if hub_client is None:
        return model
    files = hub_client.list_files(model)
    # Hubs keep the same weights in several formats; one of them is enough.
    suffix = next((s for s in _WEIGHTS if any(file.endswith(s) for file in files)), None)
    patterns = None if suffix is None else (*_WITHOUT_WEIGHTS, f"*{suffix}")
    return hub_client.snapshot(model, allow_patterns=patterns)
