"""Learning-rate schedules: what share of the peak rate each optimizer step takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crucible_kitchen.errors import did_you_mean

POWER: Final = 2.0
DECAY: Final = 0.2


@dataclass(frozen=True)
class Place:
    """Where a step stands behind the warm-up.

    Args:
        done: steps taken since the warm-up.
        total: steps of the run behind its warm-up, at least 1.
        warm: steps of the warm-up.
        power: of `polynomial`.
        decay: steps of `wsd`'s fall.
    """

    done: int
    total: int
    warm: int
    power: float
    decay: int

    @property
    def left(self) -> float:
        """The share of `total` that is left, in [0, 1]."""
        return 1.0 - min(self.done / self.total, 1.0)


def constant(place: Place) -> float:
    """The peak all along."""
    return 1.0


def linear(place: Place) -> float:
    """A straight line from the peak to 0."""
    return place.left


def cosine(place: Place) -> float:
    """Half a cosine from the peak to 0.

    Source: Loshchilov and Hutter 2017, eq. 5 without restarts, https://arxiv.org/abs/1608.03983
    """
    return 0.5 * (1.0 - math.cos(math.pi * place.left))


def polynomial(place: Place) -> float:
    """A power of the straight line from 1 to 0."""
    return math.pow(place.left, place.power)


def inverse_sqrt(place: Place) -> float:
    """The square root of w / (w + steps since the warm-up), w the steps of the warm-up, at least 1.

    Source: Vaswani et al. 2017, eq. 3, scaled to the peak, https://arxiv.org/abs/1706.03762
    """
    warm = max(place.warm, 1)
    return math.sqrt(warm / (warm + place.done))


def wsd(place: Place) -> float:
    """The peak, and over the last steps a straight line to 0: warm-up, stable, decay.

    Source: Hu et al. 2024, https://arxiv.org/abs/2404.06395; with the straight line of
    Haegele et al. 2024, https://arxiv.org/abs/2405.18392
    """
    return min(1.0, (place.total - place.done) / place.decay) if place.done < place.total else 0.0


SCHEDULES: Final[Mapping[str, Callable[[Place], float]]] = MappingProxyType(
    {
        schedule.__name__: schedule
        for schedule in (constant, linear, cosine, polynomial, inverse_sqrt, wsd)
    }
)
"""Every schedule by name: the share of the peak at a place behind the warm-up."""

FALLING: Final = ("linear", "cosine", "polynomial", "wsd")
"""Those that end at 0, and so can be told to end above it."""


def steps_of(part: int | float, total_steps: int, name: str = "warmup") -> int:
    """How many steps a part of a run takes.

    Args:
        part: steps as an int, or a share of all steps as a float in [0, 1).
        total_steps: steps of the whole run.
        name: of the part, for the error.
    Raises:
        ValueError: a negative number of steps, or a share outside [0, 1).
    """
    if isinstance(part, int):
        if part < 0:
            raise ValueError(f"schedule: {name} must be at least 0 steps, got {part}")
        return min(part, total_steps)
    if not 0.0 <= part < 1.0:
        raise ValueError(f"schedule: {name} must be whole steps or a share in [0, 1), got {part}")
    return round(part * total_steps)


def learning_rate(
    step: int,
    total_steps: int,
    *,
    peak: float,
    schedule: str,
    warmup: int | float = 0,
    power: float | None = None,
    decay: int | float | None = None,
    least: float = 0.0,
) -> float:
    """The rate of one step.

    It rises in equal parts over the warm-up, whose first step already moves the weights, and falls
    so that the last step still does; the end of the fall is reached only after the run.

    Args:
        step: steps taken before this one; 0 is the first.
        total_steps: steps of the whole run.
        peak: the rate at the end of the warm-up.
        schedule: a name in `SCHEDULES`.
        warmup: steps as an int, or a share of all steps as a float in [0, 1).
        power: of ``polynomial``; None for `POWER`.
        decay: of ``wsd``, likewise steps or a share of all; None for `DECAY`.
        least: where the schedules in `FALLING` end.
    Raises:
        ValueError: an unknown schedule, or a wrong warm-up or decay.
    """
    if schedule not in SCHEDULES:
        advice = did_you_mean(schedule, SCHEDULES)
        raise ValueError(f"schedule: schedule must be known, got {schedule!r}; {advice}")
    warm = steps_of(warmup, total_steps)
    fall = steps_of(DECAY if decay is None else decay, total_steps, "decay")
    if step < warm:
        return peak * (step + 1) / warm
    place = Place(
        done=step - warm,
        total=max(total_steps - warm, 1),
        warm=warm,
        power=POWER if power is None else power,
        decay=max(fall, 1),
    )
    floor = least if schedule in FALLING else 0.0
    return floor + (peak - floor) * SCHEDULES[schedule](place)
