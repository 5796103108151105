"""What the benchmark of a patched TRL refuses to time, and what it trains."""

from __future__ import annotations

import numpy as np
import pytest

from crucible_kitchen.benchmarks.drop_in import KINDS, Task, _agree, dataset
from crucible_kitchen.benchmarks.errors_of import WrongResult

GRADIENT = np.array([3.0, 4.0], np.float32)


def answer(loss: float, gradient: np.ndarray) -> tuple[object, ...]:
    return [2.5, loss], [0.1, 0.1], {"lora_A": gradient}, 1000


def test_equal_losses_and_gradients_pass() -> None:
    _agree([answer(1.0, GRADIENT), answer(1.00001, GRADIENT + 1e-5)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (answer(1.001, GRADIENT), "a loss must be 1.0"),
        (answer(float("nan"), GRADIENT), "a loss must be 1.0"),
        (answer(1.0, GRADIENT * 1.001), "the gradient of lora_A"),
        (answer(1.0, GRADIENT * np.nan), "the gradient of lora_A"),
    ],
)
def test_a_patch_that_trains_something_else_has_no_time(
    wrong: tuple[object, ...], message: str
) -> None:
    with pytest.raises(WrongResult, match=message):
        _agree([wrong, answer(1.0, GRADIENT)])


def test_gradients_held_to_it_together_may_differ_one_by_one() -> None:
    losses, seconds, gradients, peak = answer(1.0, GRADIENT)
    assert isinstance(gradients, dict)
    want = losses, seconds, {**gradients, "lora_B": GRADIENT * 0.01}, peak
    got = losses, seconds, {**gradients, "lora_B": GRADIENT * 0.02}, peak
    with pytest.raises(WrongResult, match=r"the gradient of lora_B .* off by 1 of its norm"):
        _agree([got, want], 0.1)
    _agree([got, want], 0.1, whole=True)
    with pytest.raises(WrongResult, match="the gradient of all"):
        _agree([got, want], 1e-3, whole=True)


def test_rows_are_answers_to_prompts_or_plain_text() -> None:
    pairs, texts = (dataset(Task("", kind, 2, 64, 2, 1, "wall")) for kind in KINDS)
    assert len(pairs) == len(texts) == 4
    for pair, text in zip(pairs, texts, strict=True):
        assert text == {"text": pair["prompt"] + pair["completion"]}
        assert pair["completion"].strip()
