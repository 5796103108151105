"""An `Evaluator` that runs no model of its own: exact arithmetic over predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from crucible_kitchen import ports
from crucible_kitchen.errors import ConfigError, DataError, did_you_mean

_CLASSES: Final = ("accuracy", "precision", "recall", "f1")
_LOSSES: Final = ("loss", "perplexity")


class Evaluator(ports.Evaluator):
    """Compares predictions with labels, and averages losses.

    `model` is a function from a row to a prediction, or None where each row has its own
    ``prediction``. ``accuracy``, and ``precision``, ``recall``, ``f1`` (each the mean over classes,
    every class counting the same) need ``label`` in each row. ``loss`` is the mean of the rows'
    ``loss`` in nats, and ``perplexity`` its exponential.
    """

    def evaluate(
        self,
        model: Callable[[Mapping[str, Any]], Any] | None,
        dataset: Iterable[Mapping[str, Any]],
        metrics: Sequence[str] = ("accuracy",),
    ) -> dict[str, float]:
        """Compute metrics; see `ports.Evaluator`."""
        for metric in metrics:
            if metric not in _CLASSES + _LOSSES:
                advice = did_you_mean(metric, _CLASSES + _LOSSES)
                raise ConfigError(f"evaluator: no metric {metric!r}; {advice}")
        rows = list(dataset)
        if not rows:
            raise DataError("evaluator: dataset must hold at least one row, got none")
        results: dict[str, float] = {}
        if set(metrics) & set(_CLASSES):
            labels = [_value(row, "label", index) for index, row in enumerate(rows)]
            predictions = [
                _value(row, "prediction", index) if model is None else model(row)
                for index, row in enumerate(rows)
            ]
            results.update(_classification(labels, predictions))
        if set(metrics) & set(_LOSSES):
            losses = [float(_value(row, "loss", index)) for index, row in enumerate(rows)]
            mean = math.fsum(losses) / len(losses)
            results.update(loss=mean, perplexity=_exp(mean))
        return {**{name: results[name] for name in metrics}, "sample_count": float(len(rows))}


def _value(row: Mapping[str, Any], key: str, index: int) -> Any:
    if row.get(key) is None:
        raise DataError(f"evaluator: row {index} must have {key!r}, got {sorted(map(str, row))}")
    return row[key]


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def _classification(labels: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 averaged over the classes seen in either list.

    A ratio without a denominator counts as 0, as a class never predicted has shown no precision.
    """
    pairs = list(zip(labels, predictions, strict=True))
    classes = {*labels, *predictions}
    scores = []
    for one in classes:
        hits = sum(label == one == prediction for label, prediction in pairs)
        said = sum(prediction == one for prediction in predictions)
        were = sum(label == one for label in labels)
        precision, recall = _ratio(hits, said), _ratio(hits, were)
        scores.append((precision, recall, _ratio(2 * precision * recall, precision + recall)))
    means = [math.fsum(column) / len(classes) for column in zip(*scores, strict=True)]
    accuracy = sum(label == prediction for label, prediction in pairs) / len(pairs)
    return {"accuracy": accuracy, "precision": means[0], "recall": means[1], "f1": means[2]}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
