"""The benchmark of the products that CPU kernels are made of: it builds, and they are right."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "micro_kernel.cpp"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or ""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not COMPILER:
        pytest.skip("there is no C++ compiler")
    made = tmp_path_factory.mktemp("micro") / "micro_kernel"
    # For any processor and hardly optimized: a second, and the comparisons are the same.
    options = ["-std=c++17", "-O1", "-pthread", str(SOURCE), "-o", str(made)]
    subprocess.run([*shlex.split(COMPILER), *options], check=True)
    return made


def test_every_product_is_right_and_has_a_share_of_the_roof(program: Path) -> None:
    run = subprocess.run([program, "2", "1"], capture_output=True, text=True, check=True)
    title, shapes, *forms = run.stdout.splitlines()
    assert title.startswith("GFLOP/s of one core of 2")
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert "".join(shapes.split()) == "operands576x576192x5761536x576576x1536"
    assert forms[0].split()[0] == "float32"
    numbers = [float(number) for number in forms[0].replace("%", "").split()[1:]]
    assert len(numbers) == 8
    assert min(numbers) > 0


@pytest.mark.parametrize("arguments", [["0"], ["1", "0"], ["x"]])
def test_counts_must_be_positive(program: Path, arguments: list[str]) -> None:
    run = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == "threads and samples must be at least 1\n"
