"""Say whether the training ends before its last step, and why."""

from __future__ import annotations

import time

from crucible_kitchen.context import Context
from crucible_kitchen.graph import stage


@stage(writes="stop_reason")
def check_stop(
    step: int,
    total_steps: int,
    early_stopping: int,
    max_time: float | None,
    evaluations_since_best: int,
    *,
    ctx: Context,
) -> str:
    """Why to stop after this step; empty where the training goes on.

    Args:
        early_stopping: evaluations in a row that may bring nothing; 0 for no bound.
        max_time: seconds from the start of the run, or since it was taken up again, all of it
            counted; None for no bound. A step is never cut: the run ends behind the one in which
            the time is up.
        evaluations_since_best: how many in a row have brought nothing.
    """
    if step >= total_steps:
        return ""
    if early_stopping and evaluations_since_best >= early_stopping:
        return f"eval_loss has not fallen for {evaluations_since_best} evaluations"
    if max_time is not None:
        began = ctx.get_metadata("resumed_at", ctx.get_metadata("started_at"))
        spent = time.time() - float(began)
        if spent >= max_time:
            return f"max_time = {max_time:g} s is up"
    return ""
