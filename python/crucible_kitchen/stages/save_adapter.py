"""Save the trained weights in the form that samplers and PEFT load."""

from __future__ import annotations

from crucible_kitchen.context import Context
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient

from ._folder import run_folder


@stage(writes="adapter_path")
def save_adapter(session: Session, *, training_client: TrainingClient, ctx: Context) -> str:
    """The trained update, as ``adapter`` in the run's folder where there is one.

    Returns:
        What a sampling session's `checkpoint_path` takes.
    Raises:
        PortError: it cannot be written; nothing half written stays behind.
    """
    folder = run_folder(ctx)
    name = "adapter" if folder is None else str((folder / "adapter").absolute())
    return training_client.save_weights_for_sampler(session, name).result()
