"""Libraries of cubins, as CMake makes one, and one of all rows without their images."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from crucible_kitchen import _C
from crucible_kitchen.kernels.common import compile_ahead
from crucible_kitchen.kernels.common.compile_ahead import Compiled
from crucible_kitchen.kernels.common.configuration import Build
from crucible_kitchen.kernels.common.tuning import ARCHITECTURES

ROOT = Path(__file__).parents[2]


def shared_library(source: Path, library: Path, *options: str) -> Path:
    """The source as a library."""
    compiler = ["gcc"] if source.suffix == ".c" else ["g++", "-std=c++17", "-fvisibility=hidden"]
    command = [*compiler, "-shared", "-fPIC", *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def build_library(folder: Path, made: list[tuple[Build, Compiled]]) -> Path:
    """A library with the table of these."""
    compile_ahead.write_table(made, folder)
    return shared_library(folder / "cubins.cpp", folder / "cubins.so", f"-I{ROOT}")


@pytest.fixture(scope="session")
def whole_table(tmp_path_factory: pytest.TempPathFactory) -> _C.Cubins:
    """Every row that a wheel has, without the images."""
    pytest.importorskip("triton")
    if shutil.which("g++") is None:
        pytest.skip("the stand-in for the driver is built by g++, which is not here")
    empty = Compiled(b"", "", 0, 0)
    made = [(build, empty) for build in compile_ahead.all_builds(ARCHITECTURES)]
    return _C.Cubins(str(build_library(tmp_path_factory.mktemp("table"), made)))
