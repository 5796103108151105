"""Line charts as plain numbers, which the page's template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .folder import Point

_MOST_POINTS = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 12.0, 30.0


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in the chart's units."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A value, where it is drawn, and what it says when pointed at."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """One series.

    Args:
        label: for the legend.
        style: class of the template that gives its colour.
        dots: in order of their steps.
    """

    label: str
    style: str
    dots: tuple[Dot, ...]

    @property
    def path(self) -> str:
        """The line through all dots, as SVG path data."""
        return "M" + " L".join(f"{dot.x:.1f} {dot.y:.1f}" for dot in self.dots)


@dataclass(frozen=True)
class Chart:
    """A chart of some series over the steps of a run; all lengths in units of its view box."""

    title: str
    unit: str
    width: float
    height: float
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float = _LEFT

    @property
    def right(self) -> float:
        """Where the x axis ends."""
        return self.width - _RIGHT

    @property
    def bottom(self) -> float:
        """Where the x axis lies."""
        return self.height - _BOTTOM


def chart(
    title: str,
    unit: str,
    series: Sequence[tuple[str, str, Sequence[Point]]],
    *,
    width: float,
    height: float,
    from_zero: bool = False,
) -> Chart | None:
    """A chart of every series that has points; None where none has.

    Args:
        title: what is drawn.
        unit: of the y axis.
        series: label, style and points of each.
        width, height: of the view box.
        from_zero: begin the y axis at 0.
    """
    kept = [(label, style, thinned(points)) for label, style, points in series if points]
    if not kept:
        return None
    steps = [point.step for _, _, points in kept for point in points]
    values = [point.value for _, _, points in kept for point in points]
    y_at = nice_ticks(0.0 if from_zero else min(values), max(values), 5)
    x_at = nice_ticks(min(steps), max(steps), 8, whole=True)
    x = _scale(min(steps), max(steps), _LEFT, width - _RIGHT)
    y = _scale(y_at[0], y_at[-1], height - _BOTTOM, _TOP)
    return Chart(
        title,
        unit,
        width,
        height,
        tuple(
            Line(
                label,
                style,
                tuple(
                    Dot(x(p.step), y(p.value), f"{label}, step {p.step}: {short(p.value)} {unit}")
                    for p in points
                ),
            )
            for label, style, points in kept
        ),
        tuple(Tick(x(tick), f"{tick:g}") for tick in x_at if min(steps) <= tick <= max(steps)),
        tuple(Tick(y(tick), label) for tick, label in zip(y_at, _labels(y_at), strict=True)),
    )


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most some hundred points: means of as many equal stretches, first and last kept."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    inner = points[1:-1]
    stretch = math.ceil(len(inner) / (_MOST_POINTS - 2))
    means = [_mean(inner[start : start + stretch]) for start in range(0, len(inner), stretch)]
    return [points[0], *means, points[-1]]


def _mean(points: Sequence[Point]) -> Point:
    middle = points[len(points) // 2]
    value = math.fsum(point.value for point in points) / len(points)
    return Point(middle.step, value, middle.time)


def nice_ticks(low: float, high: float, about: int, *, whole: bool = False) -> list[float]:
    """Round numbers that enclose a range, some `about` of them; `whole`: none between integers."""
    if high - low < 1e-12 * max(abs(high), 1e-300):
        pad = 1.0 if whole else abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = max((high - low) / about, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    gap = next(power * factor for factor in factors if power * factor >= rough * 0.999)
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [index * gap for index in range(first, last + 1)]


def _labels(ticks: Sequence[float]) -> list[str]:
    """The shortest texts that tell the ticks apart."""
    largest = max(abs(tick) for tick in ticks)
    if 0 < largest < 1e-3:
        return [f"{tick:.1e}".replace("e-0", "e-") if tick else "0" for tick in ticks]
    for digits in range(5):
        texts = [f"{tick:,.{digits}f}" for tick in ticks]
        if all(
            abs(float(text.replace(",", "")) - tick) <= 1e-6 * largest
            for text, tick in zip(texts, ticks, strict=True)
        ):
            return texts
    return [f"{tick:.3g}" for tick in ticks]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def short(value: float) -> str:
    """A number in few digits: 4 that count, or none behind the point if it is large."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
