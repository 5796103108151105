"""Find the folder that holds the model."""

from __future__ import annotations

from pathlib import Path

from crucible_kitchen.graph import stage
from crucible_kitchen.ports import HubClient


@stage(writes="model_path")
def resolve_model(model: str, *, hub_client: HubClient | None) -> str:
    """The model as the training client takes it.

    Args:
        model: a folder or file on this machine, which is taken as it is, or a hub's name.
        hub_client: fetches a name; without one the training client is given the name itself.
    Raises:
        PortError: nothing is there and the hub has no such model, or cannot be reached.
    """
    local = Path(model).expanduser()
    if local.exists():
        return str(local)
    if hub_client is None:
        return model
    return hub_client.snapshot_model(model)
