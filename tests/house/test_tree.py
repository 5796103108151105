"""The checks that keep the house as its plan says; each failure says what to write and where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "crucible_kitchen"
SOURCES = {".py", ".cpp", ".h", ".cu", ".cuh"}
LINES_AT_MOST = 500


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository: what git tracks, or all but build folders where git is absent."""
    if (ROOT / ".git").exists():
        out = subprocess.run(
            ["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        return [ROOT / line for line in out.splitlines() if (ROOT / line).is_file()]
    skipped = {".venv", "build", "dist", "runs"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not skipped & set(p.parts)]


def op_folders() -> list[Path]:
    return sorted(
        p
        for p in (ROOT / "kernels").iterdir()
        if (p / "reference.py").exists() or p.name != "common"
    )


def python_modules(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.py") if p.name != "__init__.py" and p.name[0] != "_")


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def test_a_file_has_one_subject() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in tracked()
        if p.suffix in SOURCES and (n := len(p.read_text().splitlines())) > LINES_AT_MOST
    }
    assert not long, f"over {LINES_AT_MOST} lines, so more than one subject; split: {long}"


@pytest.mark.parametrize("folder", op_folders(), ids=lambda p: p.name)
def test_an_op_has_its_files(folder: Path) -> None:
    missing = [
        name
        for name in ("README.md", "reference.py", "cases.py", "__init__.py")
        if not (folder / name).exists()
    ]
    if not [*folder.glob("triton_*.py"), *folder.glob("cuda.cu")]:
        missing.append("cuda.cu, triton_kernels.py, or triton_launch.py of another op's kernels")
    assert not missing, f"kernels/{folder.name} lacks {missing}"


def test_every_op_folder_is_in_the_tables() -> None:
    from crucible_kitchen.ops import OPS

    folders = {p.name for p in op_folders()}
    named = {
        kernel.target.split(":")[0].split(".kernels.")[1].split(".")[0]
        for op in OPS.values()
        for kernel in op.kernels
        if ".kernels." in kernel.target
    }
    assert folders == named, "write the line of the op in python/crucible_kitchen/ops/__init__.py"
    cmake = (ROOT / "CMakeLists.txt").read_text()
    compiled = {p.name for p in op_folders() if (p / "cpu.cpp").exists()}
    declared = re.search(r"set\(OPS ([^)]*)\)", cmake)
    assert declared, "CMakeLists.txt must have one line `set(OPS ...)`"
    assert set(declared[1].split()) == compiled, "write the op in `set(OPS ...)` of CMakeLists.txt"


def test_kernels_know_nothing_of_us() -> None:
    for path in tracked("kernels"):
        if path.suffix == ".py":
            allowed = {"torch", "triton", "crucible_kitchen.kernels"}
            for name in imported_modules(path):
                ours = name.startswith("crucible_kitchen")
                top = name.split(".")[0]
                known = top in sys.stdlib_module_names or top in allowed
                assert name.startswith("crucible_kitchen.kernels") if ours else known, (
                    f"{path.relative_to(ROOT)} imports {name}; kernels use torch, triton and the "
                    "standard library"
                )
        elif path.suffix in SOURCES:
            bad = re.findall(
                r'#include\s+[<"]((?:pybind11|torch|ATen|c10|Python)[^>"]*)', path.read_text()
            )
            assert not bad, f"{path.relative_to(ROOT)} includes {bad}; that belongs in csrc/"


@pytest.mark.parametrize("folder", ["stages", "workflows", "recipes"])
def test_every_file_is_in_its_table(folder: str) -> None:
    table = (PACKAGE / folder / "__init__.py").read_text()
    missing = [p.stem for p in python_modules(PACKAGE / folder) if p.stem not in table]
    assert not missing, f"write {missing} in python/crucible_kitchen/{folder}/__init__.py"


def test_every_adapter_is_in_bootstrap() -> None:
    from crucible_kitchen.bootstrap import ADAPTERS
    from crucible_kitchen.ports import PORTS

    named = {target for table in ADAPTERS.values() for target in table.values()}
    for path in (PACKAGE / "adapters").glob("*/*.py"):
        if path.stem in PORTS:
            module = f"crucible_kitchen.adapters.{path.parent.name}.{path.stem}"
            assert any(target.startswith(module + ":") for target in named), (
                f"write {module} in ADAPTERS of bootstrap/table.py"
            )


def test_every_port_has_a_noop_and_a_contract() -> None:
    from crucible_kitchen.adapters import noop
    from crucible_kitchen.ports import PORTS
    from crucible_kitchen.testing import contracts

    for name, port in PORTS.items():
        assert hasattr(noop, port.__name__), f"adapters/noop has no {port.__name__} for {name}"
        assert hasattr(contracts, f"{port.__name__}Contract"), (
            f"testing/contracts.py has no {port.__name__}Contract for {name}"
        )


def test_no_path_of_one_machine_is_tracked() -> None:
    pattern = re.compile(r"/(?:farm|work|root|tmp)/[a-z]")
    found = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in tracked()
        if p.suffix in SOURCES | {".md", ".toml", ".txt", ".yaml", ".json"} or p.name == "run"
        for i, line in enumerate(p.read_text().splitlines(), 1)
        if pattern.search(line) and p != Path(__file__).resolve()
    ]
    assert not found, f"paths of one machine: {found}"


def test_import_is_light() -> None:
    probe = (
        "import sys, crucible_kitchen as ck; ck.Context; ck.workflow; ck.stage;"
        "heavy = {'torch', 'triton', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=ROOT / "tests")
