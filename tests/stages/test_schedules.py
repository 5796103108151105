"""Learning-rate schedules: where they start, where they end, and what they never do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.stages.schedules import SCHEDULES, learning_rate, warmup_steps


def rates(total: int, schedule: str, warmup: int | float = 0) -> list[float]:
    return [
        learning_rate(s, total, peak=1.0, schedule=schedule, warmup=warmup) for s in range(total)
    ]


def test_constant_is_the_peak_at_every_step() -> None:
    assert rates(4, "constant") == [1.0] * 4


def test_linear_falls_in_equal_parts_and_its_last_step_still_moves() -> None:
    assert rates(4, "linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates(4, "cosine") == pytest.approx(
        [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    )


def test_warmup_rises_in_equal_parts_and_then_the_schedule_begins_at_its_peak() -> None:
    assert rates(6, "linear", 2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_a_float_warmup_is_a_share_of_all_steps() -> None:
    assert rates(10, "cosine", 0.2) == rates(10, "cosine", 2)
    assert warmup_steps(0.5, 7) == 4


def test_a_warmup_longer_than_the_run_ends_with_the_run() -> None:
    assert rates(3, "linear", 100) == pytest.approx([1 / 3, 2 / 3, 1.0])


@given(
    total=st.integers(1, 200),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    warmup=st.one_of(st.integers(0, 300), st.floats(0, 1, exclude_max=True)),
)
def test_no_step_is_dead_negative_or_above_the_peak(
    total: int, schedule: str, warmup: int | float
) -> None:
    assert all(0.0 < rate <= 1.0 for rate in rates(total, schedule, warmup))
    assert learning_rate(total + 5, total, peak=1.0, schedule=schedule, warmup=warmup) >= 0.0


@pytest.mark.parametrize("warmup", [-1, 1.0, -0.1, math.nan])
def test_a_wrong_warmup_is_refused(warmup: int | float) -> None:
    with pytest.raises(ValueError, match=r"schedule: warmup must be .*, got"):
        warmup_steps(warmup, 10)


def test_an_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        learning_rate(0, 1, peak=1.0, schedule="cosin")
