"""Learning-rate schedules: what share of the peak rate each optimizer step takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from crucible_kitchen.errors import did_you_mean


def constant(progress: float) -> float:
    """The peak all along."""
    return 1.0


def linear(progress: float) -> float:
    """A straight line from the peak to 0."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a cosine from the peak to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: Final[Mapping[str, Callable[[float], float]]] = MappingProxyType(
    {"constant": constant, "linear": linear, "cosine": cosine}
)
"""Every schedule by name: the share of the peak at a progress in [0, 1] after the warm-up."""


def warmup_steps(warmup: int | float, total_steps: int) -> int:
    """How many steps the warm-up takes.

    Args:
        warmup: steps as an int, or a share of all steps as a float in [0, 1).
        total_steps: steps of the whole run.
    Raises:
        ValueError: a negative number of steps, or a share outside [0, 1).
    """
    if isinstance(warmup, int):
        if warmup < 0:
            raise ValueError(f"schedule: warmup must be at least 0 steps, got {warmup}")
        return min(warmup, total_steps)
    if not 0.0 <= warmup < 1.0:
        raise ValueError(f"schedule: warmup must be whole steps or a share in [0, 1), got {warmup}")
    return round(warmup * total_steps)


def learning_rate(
    step: int, total_steps: int, *, peak: float, schedule: str, warmup: int | float = 0
) -> float:
    """The rate of one step.

    It rises in equal parts over the warm-up, whose first step already moves the weights, and falls
    so that the last step still does; 0 is reached only after the run.

    Args:
        step: steps taken before this one; 0 is the first.
        total_steps: steps of the whole run.
        peak: the rate at the end of the warm-up.
        schedule: a name in `SCHEDULES`.
        warmup: steps as an int, or a share of all steps as a float in [0, 1).
    Raises:
        ValueError: an unknown schedule, or a wrong warm-up.
    """
    if schedule not in SCHEDULES:
        advice = did_you_mean(schedule, SCHEDULES)
        raise ValueError(f"schedule: schedule must be known, got {schedule!r}; {advice}")
    warm = warmup_steps(warmup, total_steps)
    if step < warm:
        return peak * (step + 1) / warm
    progress = min((step - warm) / max(total_steps - warm, 1), 1.0)
    return peak * SCHEDULES[schedule](progress)
