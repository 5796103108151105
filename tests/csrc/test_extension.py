"""The extension itself: what it links, what its doors refuse, its levels, threads and forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from crucible_kitchen import _C

FOLDER = Path(_C.__file__).parent
LEVELS = [p.stem.removeprefix("crucible_cpu_") for p in FOLDER.glob("crucible_cpu_*.so")]


def python(script: str, **environment: str) -> str:
    """What a fresh interpreter prints; stderr if it fails."""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() if run.returncode == 0 else run.stderr


def test_imports_without_torch() -> None:
    script = "import sys; from crucible_kitchen import _C; print(_C.isa(), 'torch' in sys.modules)"
    level, loaded = python(script).split()
    assert level in LEVELS
    assert loaded == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="readelf")
@pytest.mark.parametrize("library", sorted(FOLDER.glob("*.so")), ids=lambda path: path.name)
def test_links_neither_torch_nor_openmp(library: Path) -> None:
    dynamic = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line]
    assert needed, "readelf no longer says what it did"
    known = ("libstdc++", "libgcc_s", "libm.", "libc.", "ld-linux", "libdl", "libpthread", "librt")
    assert [name for name in needed if not name.startswith(known)] == []
    assert "RUNPATH" not in dynamic
    assert "RPATH" not in dynamic


def test_no_path_of_the_machine_that_built_it() -> None:
    root = str(Path(__file__).parents[2]).encode()
    for library in FOLDER.glob("*.so"):
        assert root not in library.read_bytes(), library.name


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_gives_the_reference(level: str) -> None:
    """In a process of its own: the level is chosen when the first kernel runs."""
    script = """
import torch
from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.lora_linear import cases
for size in cases.SIZES.values():
    for dtype in (torch.float32, torch.bfloat16):
        made = []
        for backend in ("cpu", "reference"):
            args = list(cases.inputs(size, dtype, "cpu"))
            leaves = [args[i].requires_grad_() for i in cases.GRADIENTS]
            with ops.using(backend):
                y = ops.lora_linear(*args)
                made.append([y, *torch.autograd.grad(y.sum(), leaves)])
        for got, want in zip(*made):
            error, size_of = (got.double() - want.double()).norm(), want.double().norm()
            assert error <= (8e-6 if dtype == torch.float32 else 2.0**-7) * size_of, (size, dtype)
print(_C.isa())
"""
    shown = python(script, CRUCIBLE_CPU_ISA=level, OMP_NUM_THREADS="1")
    if f"on this processor, got {level}" in shown:
        pytest.skip(f"this processor does not run {level}")
    assert shown == level


def test_an_unknown_level_is_refused() -> None:
    shown = python("from crucible_kitchen import _C; _C.isa()", CRUCIBLE_CPU_ISA="mmx")
    assert "CRUCIBLE_CPU_ISA must be one of " in shown
    assert "got mmx" in shown


def test_it_runs_on_the_threads_that_torch_runs_on() -> None:
    ours = "from crucible_kitchen import _C; print(_C.thread_runtime())"
    assert python(ours) == "std::thread"
    assert python(f"import torch; {ours}") == "libgomp"


def test_without_torch_it_makes_its_own_threads() -> None:
    script = """
import numpy as np
from crucible_kitchen import _C
grads = [np.ones(100_000, np.float32)]
print(_C.grad_norm_cpu(grads, threads=3) ** 2, _C.thread_runtime())
"""
    norm, runtime = python(script).split()
    assert round(float(norm)) == 100_000
    assert runtime == "std::thread"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_wait_for_threads_it_has_not() -> None:
    script = """
import os, torch
from crucible_kitchen import _C
grads = [torch.ones(200_000)]
_C.grad_norm_cpu(grads, threads=4)
child = os.fork()
if child == 0:
    os._exit(round(_C.grad_norm_cpu(grads, threads=4) ** 2) == 200_000)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(script) == "1"


def test_other_libraries_tensors_are_read_too() -> None:
    assert _C.grad_norm_cpu([np.full(4, 3.0, np.float32)], threads=1) == 6.0
    assert _C.grad_norm_cpu([torch.full((4,), 3.0, requires_grad=True)], threads=1) == 6.0


def lora_arguments() -> list[object]:
    panels = torch.zeros(_C.lora_linear_panels_numel(6, 8, False))
    a, b = torch.zeros(3, 8), torch.zeros(6, 3)
    y, xa = torch.zeros(2, 6), torch.zeros(2, 3)
    return [torch.zeros(2, 8), [panels], [None], [y], [2], [a], [b], [1.0], xa, 0.0, [0], 1]


@pytest.mark.parametrize(
    ("i", "bad", "error", "message"),
    [
        (0, torch.zeros(3, 8), ValueError, r"y must have shape \[M, N\] = \[3, 6\], got \[2, 6\]"),
        (0, torch.zeros(8), ValueError, r"x must have shape \[M, K\], got \[8\] \(torch.float32\)"),
        (0, torch.zeros(2, 8).long(), TypeError, "x must be torch.float32 or torch.bfloat16"),
        (0, torch.zeros(8, 2).t(), ValueError, "x must have rows without gaps, got stride 2"),
        (0, "x", TypeError, "x must be a tensor, got str"),
        (1, [torch.zeros(5)], ValueError, r"panels must have shape \[panels_numel\]"),
        (5, [torch.zeros(0, 8)], ValueError, "lora_a must have at least one row"),
        (6, [torch.zeros(6, 4)], ValueError, r"lora_b must have shape \[N, R\] = \[6, 3\], got"),
        (3, [torch.zeros(3, 6)], ValueError, r"y must have shape \[M, N\] = \[2, 6\], got"),
        (8, torch.zeros(3, 2).t(), ValueError, "xa must be contiguous, got strides"),
        (8, torch.zeros(5), ValueError, r"xa must have rows x R elements .*, 6, got shape \[5\]"),
        (11, 0, ValueError, "threads must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_a_door_names_what_it_refuses(
    i: int, bad: object, error: type[Exception], message: str
) -> None:
    args = lora_arguments()
    _C.lora_linear_forward(*args)  # type: ignore[arg-type]
    args[i] = bad
    with pytest.raises(error, match=f"lora_linear: {message}"):
        _C.lora_linear_forward(*args)  # type: ignore[arg-type]
