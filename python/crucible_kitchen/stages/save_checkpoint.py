"""Save what is needed to go on from this step."""

from __future__ import annotations

import shutil
from pathlib import Path

from crucible_kitchen.context import Context
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient

from ._folder import run_folder

_PREFIX = "step_"


@stage(writes="last_checkpoint")
def save_checkpoint(
    session: Session,
    step: int,
    keep_last: int,
    *,
    training_client: TrainingClient,
    ctx: Context,
) -> str:
    """A checkpoint named by its step, in the run's folder where there is one.

    Args:
        step: optimizer steps taken.
        keep_last: how many checkpoints of this run to keep; 0 keeps all. Older ones are removed
            only when the new one is whole.
    Returns:
        What the training client's `load_checkpoint` takes.
    Raises:
        PortError: it cannot be written; the earlier ones are as they were.
    """
    name = f"{_PREFIX}{step:06d}"
    folder = run_folder(ctx)
    if folder is None:
        return training_client.save_checkpoint(session, name).result()
    checkpoints = folder / "checkpoints"
    saved = training_client.save_checkpoint(session, str(checkpoints / name)).result()
    if keep_last:
        _remove_all_but(keep_last, checkpoints)
    return saved


def _remove_all_but(keep_last: int, checkpoints: Path) -> None:
    for folder in sorted(checkpoints.glob(f"{_PREFIX}*"))[:-keep_last]:
        shutil.rmtree(folder)
