"""The same under pytest-benchmark: ``pytest benchmarks``; a wrong kernel is a failed test."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crucible_kitchen import ops
from crucible_kitchen.benchmarks import measure, roofline
from crucible_kitchen.benchmarks.problem import Problem, sizes_of
from crucible_kitchen.benchmarks.run import BACKENDS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def peak() -> roofline.Peak:
    """This machine's peaks in float32."""
    return roofline.measure(DEVICE, torch.float32)


@pytest.mark.parametrize(
    ("op", "size"), [(op, size) for op in ops.OPS for size in sizes_of(op, DEVICE)]
)
def test_time(op: str, size: str, benchmark: Any, peak: roofline.Peak) -> None:
    problem = Problem(op, size, sizes_of(op, DEVICE)[size], torch.float32, DEVICE)
    figures = measure.measure(problem, BACKENDS[DEVICE], peak, samples=5, clock="wall")
    assert figures.rows, f"no kernel takes it: {figures.refused}"
    benchmark.pedantic(problem.ours(problem.takers(BACKENDS[DEVICE])[0][0]), rounds=5)
    for row in figures.rows:
        benchmark.extra_info[row.name] = {"ratio": row.ratio, "error": row.error}
    benchmark.extra_info["roofline"] = figures.rows[0].roofline
