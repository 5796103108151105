"""The noop scalar head: a score that is linear in which tokens an input holds, and learns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_FEATURES = 97


class ScoreHead:
    """Weights of token classes, and the gradients that wait for a step.

    A step moves the weights by 1 against the gradients, whatever their size, so that a few steps
    tell apart what tokens can tell apart.
    """

    def __init__(self) -> None:
        # Not zero: scores that are all equal would prefer nothing.
        self.weights: Floats = np.sin(np.arange(_FEATURES)) / 10
        self._gradients: Floats = np.zeros(_FEATURES)

    def score(self, tokens: Sequence[int]) -> float:
        """The score of an input."""
        return float(self.weights @ _features(tokens))

    def add_gradient(self, tokens: Sequence[int], by_score: float) -> None:
        """Add the gradient of a loss whose derivative by the input's score is `by_score`."""
        self._gradients += by_score * _features(tokens)

    def step(self, learning: bool) -> None:
        """Apply the gradients, if it is to learn, and clear them."""
        size = math.sqrt(float(self._gradients @ self._gradients))
        if learning and size > 0.0:
            self.weights = self.weights - self._gradients / size
        self.clear()

    def clear(self) -> None:
        """Drop the gradients."""
        self._gradients = np.zeros(_FEATURES)


def _features(tokens: Sequence[int]) -> Floats:
    """The share of each class of tokens in an input."""
    classes = np.asarray(tokens) % _FEATURES
    shares: Floats = np.bincount(classes, minlength=_FEATURES) / len(tokens)
    return shares
