"""The script for machines with a GPU says so where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.sh"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line_and_fails() -> None:
    run = subprocess.run(
        ["bash", str(SCRIPT)],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == (
        "benchmarks/gpu_check.sh: torch sees no CUDA device, so nothing was run\n"
    )
    assert run.stdout == ""
