"""One problem: checked, then timed, ours beside the others'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors_of import error_of, refuse_wrong, truth
from .problem import Call, Problem
from .roofline import Peak
from .timing import interleaved


@dataclass(frozen=True)
class Row:
    """What one of them took.

    Args:
        name: our backend, or the peer.
        median_s, low_s, high_s: median and quartiles, seconds.
        ratio: its time over that of our first row, median of the pairs taken side by side.
        roofline: share of what the machine can do, or None where the work is not counted, or less
            than it is done.
        error: relative to the reference in float64; None for a floor that computes less.
    """

    name: str
    median_s: float
    low_s: float
    high_s: float
    ratio: float
    roofline: float | None
    error: float | None


@dataclass(frozen=True)
class Figures:
    """Everything measured of one problem; the first row is ours."""

    op: str
    size: str
    dtype: str
    samples: int
    clock: str
    rows: tuple[Row, ...]
    refused: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    problem: Problem, backends: Sequence[str], peak: Peak, *, samples: int, clock: str
) -> Figures:
    """Check every call against the reference, then time them in turn.

    Raises:
        WrongResult: one of our kernels is wrong by more than its dtype allows.
    """
    takers, refused = problem.takers(backends)
    calls: dict[str, Call] = {f"ours ({name})": problem.ours(name) for name in takers}
    calls |= problem.peers() if takers else {}
    want = truth(problem)
    errors: dict[str, float | None] = {}
    for name, call in calls.items():
        got = call()  # the first call: an op that works in place still has its inputs
        errors[name] = error_of(got, want) if got else None
    for backend in takers:
        refuse_wrong(problem, backend, errors[f"ours ({backend})"] or 0.0)
    del want
    timings = interleaved(calls, device=problem.device, samples=samples, clock=clock)
    work = problem.work()
    rows = []
    for name, timing in timings.items():
        (low, high), error = timing.quartiles, errors[name]
        rows.append(
            Row(
                name=name,
                median_s=timing.median,
                low_s=low,
                high_s=high,
                ratio=timing.over(next(iter(timings.values()))),
                roofline=None if work is None or error is None else peak.share(work, timing.median),
                error=error,
            )
        )
    dtype = str(problem.dtype).removeprefix("torch.")
    return Figures(problem.op, problem.size_name, dtype, samples, clock, tuple(rows), refused)
