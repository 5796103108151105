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
    mine, later = _up_to(name, checkpoints)
    # Of steps that were taken before the run was stopped, and are now taken again.
    for old in [*later, *(mine[:-keep_last] if keep_last else ())]:
        shutil.rmtree(old)
    return saved


def _up_to(name: str, checkpoints: Path) -> tuple[list[Path], list[Path]]:
    """The checkpoints up to one, in order, and those behind it."""
    folders = sorted(checkpoints.glob(f"{_PREFIX}*"))
    mine = [folder for folder in folders if folder.name <= name]
    return mine, folders[len(mine) :]
