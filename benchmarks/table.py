"""Figures as one table of at most 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from .measure import Figures, Row

WIDTH = 80
_HEAD = f"{'':<22}{'median ms':>11}{'quartiles':>20}{'ratio':>8}{'roof':>8}{'error':>11}"


def lines(figures: Figures) -> Iterator[str]:
    """One problem: a title, one line for each that computed it, and who refused and why."""
    yield f"{figures.op}  {figures.size}  {figures.dtype}"
    yield _HEAD
    for row in figures.rows:
        yield _line(row)
    for backend, reason in figures.refused.items():
        said = f"{backend} refused: {reason}"
        yield textwrap.fill(said, WIDTH, initial_indent="  ", subsequent_indent="    ")


def summary(op: str, all_figures: Sequence[Figures]) -> str | None:
    """The geometric mean of each peer's ratio over the sizes, where there are several."""
    if len(all_figures) < 2:
        return None
    ratios: dict[str, list[float]] = {}
    for figures in all_figures:
        for row in figures.rows[1:]:
            ratios.setdefault(row.name, []).append(row.ratio)
    means = [f"{name} {_geometric(values):.2f}x" for name, values in ratios.items()]
    if not means:
        return None
    text = f"geometric mean of {len(all_figures)} sizes: {', '.join(means)}"
    return textwrap.fill(text, WIDTH, initial_indent=f"{op}, ", subsequent_indent="  ")


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _line(row: Row) -> str:
    spread = f"[{1e3 * row.low_s:.3f}, {1e3 * row.high_s:.3f}]"
    roof = "" if row.roofline is None else f"{row.roofline:.0%}"
    error = "" if row.error is None else f"{row.error:.1e}"
    return (
        f"  {row.name:<20}{1e3 * row.median_s:>11.3f}{spread:>20}"
        f"{f'{row.ratio:.2f}x':>8}{roof:>8}{error:>11}"
    )
