"""The CUDA C++ kernels of this build: every op, for every architecture, without a spill."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from crucible_kitchen import _C, ops

LIBRARY = Path(_C.__file__).with_name("crucible_cuda.so")
ROOT = Path(__file__).parents[2]
if not LIBRARY.exists():
    pytest.skip(
        "built without CUDA kernels: no nvcc, or CRUCIBLE_CUDA=OFF", allow_module_level=True
    )


def cuobjdump() -> str:
    """nvcc's, or the one that Triton brings."""
    if found := shutil.which("cuobjdump"):
        return found
    pytest.importorskip("triton")
    from triton import knobs

    return str(knobs.nvidia.cuobjdump.path)


@pytest.fixture(scope="module")
def kernels() -> dict[tuple[str, str], list[dict[str, int]]]:
    """What each kernel of an op takes of a multiprocessor, by op and architecture."""
    said = subprocess.run(
        [cuobjdump(), "--dump-resource-usage", str(LIBRARY)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[tuple[str, str], list[dict[str, int]]] = {}
    architecture = name = ""
    for line in said.splitlines():
        if start := re.match(r"\s*arch = (sm_\w+)", line):
            architecture = start[1]
        elif function := re.search(r"Function (\w+):", line):
            name = function[1]
        elif "REG:" in line and (op := op_of(name)):
            used = {key: int(n) for key, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", line)}
            found.setdefault((op, architecture), []).append(used)
    return found


def op_of(mangled: str) -> str | None:
    """The op in a name like _ZN8crucible9grad_norm4cuda..."""
    return next((op for op in ops.OPS if f"8crucible{len(op)}{op}4cuda" in mangled), None)


def built_architectures() -> set[str]:
    """Those of CMakeLists.txt that a GPU's own code is made for; an nvcc may know fewer."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    listed = re.search(r'set\(CRUCIBLE_CUDA_ARCHS "([^"]*)"', cmake)
    assert listed
    return {f"sm_{a.removesuffix('-real')}" for a in listed[1].split(";") if a.endswith("-real")}


def test_every_op_with_a_cuda_file_is_there_for_every_architecture(
    kernels: dict[tuple[str, str], list[dict[str, int]]],
) -> None:
    written = {folder.parent.name for folder in (ROOT / "kernels").glob("*/cuda.cu")}
    assert written == {op for op, _ in kernels}
    architectures = {at for _, at in kernels}
    # A build for the one GPU at hand has that alone; else what an nvcc does not know is left out.
    assert len(architectures) == 1 or {"sm_80", "sm_90a"} <= architectures <= built_architectures()
    missing = {(op, at) for op in written for at in architectures} - kernels.keys()
    assert not missing, f"nothing is compiled of {sorted(missing)}"


def test_an_op_without_triton_has_a_cuda_file() -> None:
    for name, op in ops.OPS.items():
        if "triton" not in {kernel.backend for kernel in op.kernels}:
            assert (ROOT / "kernels" / name / "cuda.cu").exists(), name


def test_no_register_spills(kernels: dict[tuple[str, str], list[dict[str, int]]]) -> None:
    for (op, at), used in sorted(kernels.items()):
        print(f"{op} {at}: registers {sorted(one['REG'] for one in used)}")
        assert all(0 < one["REG"] <= 255 for one in used), (op, at)
        assert not any(one["STACK"] or one["LOCAL"] for one in used), f"{op} {at} spills: {used}"
