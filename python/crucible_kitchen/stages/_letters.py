"""What the stages of a comparator share: how likely it says the right letter, and the other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crucible_kitchen.data import Pair
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum, TensorData

Letters = npt.NDArray[np.float64]
"""Log probabilities in nats, [P, 2, 2]: of a pair, with the better answer first and last; the right
letter and the wrong one."""


def letter_logprobs(
    pairs: Sequence[Pair], size: int, session: Session, training_client: TrainingClient
) -> Letters:
    """What the model would say of each pair, in both orders.

    Args:
        size: pairs that go through the model at a time.
    """
    chunks = [_asked(pairs[start : start + size]) for start in range(0, len(pairs), size)]
    futures = [training_client.forward(session, chunk) for chunk in chunks]
    said = [
        output["logprobs"].numpy()[-1]
        for future in futures
        for output in future.result().loss_fn_outputs
    ]
    return np.asarray(said, np.float64).reshape(-1, 2, 2)


def _asked(pairs: Sequence[Pair]) -> list[Datum]:
    """Each sequence with its right letter, then with the other; what they read is the same."""
    asked: list[Datum] = []
    for first, last in pairs:
        asked += [first, _saying(first, _letter(last)), last, _saying(last, _letter(first))]
    return asked


def _letter(datum: Datum) -> Any:
    return datum.loss_fn_inputs["target_tokens"].numpy()[-1]


def _saying(datum: Datum, letter: Any) -> Datum:
    targets = datum.loss_fn_inputs["target_tokens"].numpy().copy()
    targets[-1] = letter
    return Datum(datum.model_input, {**datum.loss_fn_inputs, "target_tokens": TensorData(targets)})


def letter_losses(said: Letters) -> npt.NDArray[np.float64]:
    """The cross-entropy of the right letter, in the mean of both orders, [P]."""
    return -np.asarray(said[:, :, 0].mean(axis=1), np.float64)


def letter_scores(said: Letters) -> npt.NDArray[np.float64]:
    """Scores as of a reward model, [2P]: their difference is the log odds of the better answer.

    The log odds are the mean of both orders, in which a liking for a letter cancels.
    """
    half = (said[:, :, 0] - said[:, :, 1]).mean(axis=1) / 2.0
    return np.stack([half, -half], axis=1).reshape(-1)


def agreement(said: Letters) -> float:
    """The share of pairs of which the model likes the same answer best in both orders."""
    right = said[:, :, 0] > said[:, :, 1]
    return float((right[:, 0] == right[:, 1]).mean())
