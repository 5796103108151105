"""The contract of `Evaluator`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import Evaluator

from .base import PortContract


class EvaluatorContract(PortContract):
    """The adapter takes a function from a row to a prediction for a model, and rows with a label.

    An evaluator of another kind sets `model`, `rows`, `metrics`, and `expected` to what it must
    find (None to leave values unchecked).
    """

    port = Evaluator
    rows: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"text": "good", "label": "+"},
        {"text": "bad", "label": "-"},
        {"text": "fine", "label": "+"},
        {"text": "awful", "label": "-"},
    )
    metrics: ClassVar[Sequence[str]] = ("accuracy",)
    expected: ClassVar[Mapping[str, float] | None] = {"accuracy": 0.75}

    def model(self, row: Mapping[str, Any]) -> Any:
        """The model to measure."""
        return "+" if row["text"] in ("good", "fine", "awful") else "-"

    def test_measures_what_was_asked_for(self, adapter: Evaluator) -> None:
        results = adapter.evaluate(self.model, self.rows, metrics=self.metrics)
        assert set(results) == {*self.metrics, "sample_count"}
        assert results["sample_count"] == len(self.rows)
        if self.expected is not None:
            assert results == pytest.approx({**self.expected, "sample_count": len(self.rows)})

    def test_measures_the_same_twice(self, adapter: Evaluator) -> None:
        once = adapter.evaluate(self.model, self.rows, metrics=self.metrics)
        assert adapter.evaluate(self.model, iter(self.rows), metrics=self.metrics) == once

    def test_refuses_an_unknown_metric(self, adapter: Evaluator) -> None:
        with pytest.raises(ConfigError, match="no-such-metric"):
            adapter.evaluate(self.model, self.rows, metrics=("no-such-metric",))

    def test_invents_nothing_for_no_rows(self, adapter: Evaluator) -> None:
        with pytest.raises(DataError):
            adapter.evaluate(self.model, [], metrics=self.metrics)

    def test_reports_in_every_format(self, adapter: Evaluator) -> None:
        results = {"accuracy": 0.75, "<b>": 1.0}
        assert json.loads(adapter.generate_report(results, format="json")) == results
        assert "| accuracy | 0.75 |" in adapter.generate_report(results)
        assert "&lt;b&gt;" in adapter.generate_report(results, format="html")
        with pytest.raises(ValueError, match="pdf"):
            adapter.generate_report(results, format="pdf")
