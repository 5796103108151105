"""The same calls under pytest-benchmark: `pytest benchmarks`; a red kernel is not timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crucible_kitchen import ops

from .calls import calls_of, sizes_of, work_of
from .roofline import Peak, measure
from .run import conforms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("cuda", "triton", "reference") if DEVICE == "cuda" else ("cpu", "reference")


@pytest.fixture(scope="session")
def peak() -> Peak:
    """This machine's peaks in float32."""
    return measure(DEVICE, torch.float32)


@pytest.fixture(scope="session")
def green() -> dict[str, bool]:
    """Whether each op passes its conformance test on this machine."""
    return {op: conforms(op, BACKENDS) for op in ops.OPS}


@pytest.mark.parametrize(
    ("op", "size", "backend"),
    [(op, s, k.backend) for op in ops.OPS for s in sizes_of(op) for k in ops.OPS[op].kernels],
)
def test_time(
    op: str, size: str, backend: str, benchmark: Any, peak: Peak, green: dict[str, bool]
) -> None:
    assert green[op], f"{op} computes wrong values; its time would mean nothing"
    shape = sizes_of(op)[size]
    calls, refused = calls_of(op, shape, torch.float32, DEVICE, (backend,))
    if backend not in calls:
        pytest.skip(refused[backend])
    benchmark.pedantic(calls[backend], rounds=10, warmup_rounds=2)
    if work := work_of(op, shape, torch.float32):
        benchmark.extra_info["roofline"] = peak.share(work, benchmark.stats.stats.median)
