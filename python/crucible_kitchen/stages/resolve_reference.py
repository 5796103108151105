"""Find the folder that holds the reference model."""

from __future__ import annotations

from crucible_kitchen.graph import stage
from crucible_kitchen.ports import HubClient

from .resolve_model import resolve_model


@stage(writes="reference_path")
def resolve_reference(reference_model: str | None, *, hub_client: HubClient | None) -> str | None:
    """Another model that answers are compared with, as the training client takes it; None if none.

    Raises:
        PortError: the hub has no such model, or cannot be reached.
    """
    if reference_model is None:
        return None
    path: str = resolve_model(reference_model, hub_client=hub_client)
    return path
