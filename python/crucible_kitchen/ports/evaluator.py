"""The `evaluator` port: how good a model is."""

from __future__ import annotations

import html
import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .base import Port


class Evaluator(Port):
    """Measures a model on rows. A number it gives was computed from them, or it is not given."""

    name: ClassVar[str] = "evaluator"

    @abstractmethod
    def evaluate(
        self,
        model: Any,
        dataset: Iterable[Mapping[str, Any]],
        metrics: Sequence[str] = ("accuracy",),
    ) -> dict[str, float]:
        """Compute metrics of `model` over all rows.

        Args:
            model: what the adapter can ask: a function from a row to a prediction, or a session.
            dataset: rows.
            metrics: which ones, by name.
        Returns:
            Every metric asked for, and ``sample_count``.
        Raises:
            ConfigError: an unknown metric; the message lists the known ones.
            DataError: no rows, or a row that lacks what a metric needs (named by index).
        """

    def generate_report(self, results: Mapping[str, Any], format: str = "markdown") -> str:  # noqa: A002
        """Results of `evaluate` as a text to keep.

        Args:
            format: ``markdown``, ``html`` or ``json``.
        Raises:
            ValueError: another format.
        """
        if format == "json":
            plain = {
                name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in results.items()
            }
            return json.dumps(plain, indent=2)
        rows = [(name, _shown(value)) for name, value in results.items()]
        if format == "markdown":
            lines = [f"| {name} | {value} |" for name, value in rows]
            return "\n".join(["| metric | value |", "|---|---|", *lines])
        if format == "html":
            cells = "".join(
                f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
                for name, value in rows
            )
            return f"<table><tr><th>metric</th><th>value</th></tr>{cells}</table>"
        raise ValueError(f"generate_report: format must be markdown, html or json, got {format!r}")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
