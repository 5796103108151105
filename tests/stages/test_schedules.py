"""Learning-rate schedules: where they start, where they end, and what they never do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.stages.schedules import FALLING, SCHEDULES, learning_rate, steps_of


def rates(total: int, schedule: str, warmup: int | float = 0, **options: float) -> list[float]:
    return [
        learning_rate(s, total, peak=1.0, schedule=schedule, warmup=warmup, **options)
        for s in range(total)
    ]


def test_constant_is_the_peak_at_every_step() -> None:
    assert rates(4, "constant") == [1.0] * 4


def test_linear_falls_in_equal_parts_and_its_last_step_still_moves() -> None:
    assert rates(4, "linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates(4, "cosine") == pytest.approx(
        [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    )


def test_polynomial_is_a_power_of_the_straight_line() -> None:
    assert rates(4, "polynomial") == pytest.approx([1.0, 0.75**2, 0.25, 0.0625])
    assert rates(4, "polynomial", power=1.0) == rates(4, "linear")
    assert rates(6, "polynomial", 2, power=3.0)[2:] == pytest.approx([1.0, 0.75**3, 0.125, 0.25**3])


def test_inverse_sqrt_is_half_the_peak_at_four_times_the_warmup() -> None:
    got = rates(60, "inverse_sqrt", 10)
    assert got[10] == 1.0
    assert got[40] == pytest.approx(0.5)
    assert rates(4, "inverse_sqrt") == pytest.approx([1.0, 2**-0.5, 3**-0.5, 0.5])


def test_wsd_stays_and_then_falls_over_its_last_steps() -> None:
    assert rates(10, "wsd", 2, decay=4) == pytest.approx([0.5, *[1.0] * 5, 1.0, 0.75, 0.5, 0.25])
    assert rates(10, "wsd", decay=0.4) == rates(10, "wsd", decay=4)
    assert rates(10, "wsd") == pytest.approx([*[1.0] * 9, 0.5])
    assert rates(3, "wsd", decay=0) == [1.0, 1.0, 1.0]
    assert rates(4, "wsd", 2, decay=4) == pytest.approx([0.5, 1.0, 0.5, 0.25])


@pytest.mark.parametrize("schedule", FALLING)
def test_a_least_rate_is_where_the_fall_ends_and_the_warmup_knows_nothing_of_it(schedule) -> None:
    options = {"power": 1.0, "decay": 8, "least": 0.2}
    got, plain = (rates(10, schedule, 2, **{**options, "least": x}) for x in (0.2, 0.0))
    assert got[:3] == plain[:3] == [0.5, 1.0, 1.0]
    assert got == pytest.approx([*plain[:2], *(0.2 + 0.8 * rate for rate in plain[2:])])
    end = learning_rate(10, 10, peak=1.0, schedule=schedule, warmup=2, **options)
    assert end == pytest.approx(0.2)


def test_warmup_rises_in_equal_parts_and_then_the_schedule_begins_at_its_peak() -> None:
    assert rates(6, "linear", 2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_a_float_warmup_is_a_share_of_all_steps() -> None:
    assert rates(10, "cosine", 0.2) == rates(10, "cosine", 2)
    assert steps_of(0.5, 7) == 4


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
        steps_of(warmup, 10)


def test_an_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        learning_rate(0, 1, peak=1.0, schedule="cosin")
