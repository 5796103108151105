"""Remember where the held-out loss was lowest, and keep what the model was there."""

from __future__ import annotations

from typing import NamedTuple

from crucible_kitchen.context import Context
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient

from ._folder import run_folder


class Best(NamedTuple):
    """The best evaluation so far.

    Args:
        best_loss: its held-out loss.
        best_step: steps taken by then.
        best_checkpoint: the model at it; None where none is kept.
        evaluations_since_best: how many came after it.
        evaluated_step: steps taken at the last evaluation.
    """

    best_loss: float | None
    best_step: int
    best_checkpoint: str | None
    evaluations_since_best: int
    evaluated_step: int


@stage
def track_best(
    eval_loss: float | None,
    step: int,
    session: Session,
    early_stopping: int,
    early_stopping_gain: float,
    save_best: bool,
    best_loss: float | None = None,
    best_step: int = 0,
    best_checkpoint: str | None = None,
    evaluations_since_best: int = 0,
    *,
    training_client: TrainingClient,
    ctx: Context,
) -> Best:
    """The best evaluation with the present one in it, as ``checkpoints/best`` if it is kept.

    Args:
        early_stopping_gain: a loss must be lower by more than this to be the best.
    Raises:
        ConfigError: something depends on the held-out loss and no rows are held out.
        PortError: the checkpoint cannot be written; the one before is as it was.
    """
    if eval_loss is None:
        if early_stopping or save_best:
            asked = "early_stopping" if early_stopping else "save_best"
            raise ConfigError(
                f"track_best: {asked} goes by the held-out loss, and no rows are held out; "
                "a larger eval_rows or another eval_split holds some out"
            )
        return Best(None, 0, None, 0, step)
    if best_loss is not None and not eval_loss < best_loss - early_stopping_gain:
        return Best(best_loss, best_step, best_checkpoint, evaluations_since_best + 1, step)
    kept = best_checkpoint
    if save_best:
        folder = run_folder(ctx)
        place = "best" if folder is None else str(folder / "checkpoints" / "best")
        kept = training_client.save_checkpoint(session, place).result()
    return Best(eval_loss, step, kept, 0, step)
