"""When each stage ran: a row a stage, one axis for all, so that what overlaps is seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .spent import Times

BINS = 600


@dataclass(frozen=True)
class Row:
    """A stage's row.

    Args:
        name: of the stage, with as much of its path as tells it from the others.
        path: of the stage.
        status: see `Spent.status`.
        marks: begin and width of each mark, in `BINS`ths of the run.
    """

    name: str
    path: str
    status: str
    marks: tuple[tuple[int, int], ...]


def timeline(times: Times, paths: Iterable[str]) -> list[Row]:
    """A row for each stage that ran, in the order of the text."""
    ran = [path for path in paths if times.get(path).spans]
    return [
        Row(
            _shortest(path, ran),
            path,
            times.get(path).status,
            tuple(_merged(times.get(path).spans, times.seconds)),
        )
        for path in ran
    ]


def _shortest(path: str, paths: Iterable[str]) -> str:
    """The end of a path that no other path has."""
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in reversed(range(len(parts))))
    others = [f"/{other}" for other in paths if other != path]
    return next(end for end in ends if not any(other.endswith(f"/{end}") for other in others))


def _merged(spans: Iterable[tuple[float, float]], seconds: float) -> Iterator[tuple[int, int]]:
    """Spans as marks that do not touch: a loop may have run a stage a million times."""
    scale = BINS / seconds if seconds > 0 else 0.0
    begin = end = -1
    for start, stop in sorted(spans):
        first = min(int(start * scale), BINS - 1)
        last = max(first + 1, min(round(stop * scale), BINS))
        if first <= end:
            end = max(end, last)
            continue
        if end > 0:
            yield begin, end - begin
        begin, end = first, last
    if end > 0:
        yield begin, end - begin
