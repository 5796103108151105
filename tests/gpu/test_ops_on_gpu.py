"""Every CUDA and Triton kernel of every op on a real device, by the test that all kernels take.

Without a device this file is skipped; with one, a kernel that refuses all of its cases fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crucible_kitchen import ops
from crucible_kitchen.kernels.adamw_step import cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_kernels_conform(backend: str) -> None:
    kernels = Path(__file__).parents[1] / "kernels"
    files = [kernels / f"test_{name}.py" for name in ("conformance", "adamw_guard")]
    files += [kernels / "test_adamw_eight_bit.py"] if backend == "cuda" else []
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *map(str, files)],
        env=os.environ | {"CRUCIBLE_BACKENDS": backend},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_stochastic_rounding_is_the_same_on_every_backend() -> None:
    size = cases.SIZES["many_chunks"]
    options = cases.options(size) | {"stochastic_rounding": True, "seed": 7}
    results = []
    for kernel in ops.OPS["adamw_step"].kernels:
        args = cases.inputs(size, torch.bfloat16, "cuda")
        if kernel.refuses(*args, **options) is None:
            with ops.using(kernel.backend):
                ops.adamw_step(*args, **options)
            results.append(torch.cat([param.flatten() for param in args[0]]))
    assert len(results) > 1
    # Float32 and float64 arithmetic differ in the last bit, and so does a rounding now and then.
    for other in results[1:]:
        assert (results[0] != other).double().mean() < 1e-3
