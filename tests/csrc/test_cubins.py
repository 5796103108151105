"""Kernels compiled ahead of time: which one takes some arguments, and what the driver is told.

No GPU is needed: the table is compiled by Triton or has empty images, the driver is a stand-in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_kitchen import _C

pytest.importorskip("triton")

from crucible_kitchen.kernels.common import compile_ahead
from crucible_kitchen.kernels.common.compile_ahead import Compiled, in_order
from crucible_kitchen.kernels.common.tuning import ARCHITECTURES

from .conftest import ROOT, build_library, shared_library

if shutil.which("g++") is None:
    pytest.skip(
        "the stand-in for the driver is built by g++, which is not here", allow_module_level=True
    )

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def swiglu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the real cubin of one kernel."""
    folder = tmp_path_factory.mktemp("swiglu")
    arguments = ["--out", str(folder), "--architectures", "90", "--jobs", "1"]
    only = "swiglu.forward .*gate_ptr:.bf16"
    subprocess.run(
        [sys.executable, compile_ahead.__file__, *arguments, "--only", only],
        check=True,
        capture_output=True,
    )
    builds = compile_ahead.all_builds([90], only)
    known = folder / "known"
    # The second time nothing is compiled: what it depends on is the same.
    stamps = {file: file.stat().st_mtime_ns for file in known.iterdir()}
    made = [(build, compile_ahead._make(build, known)) for build in builds]
    assert {file: file.stat().st_mtime_ns for file in known.iterdir()} == stamps
    return build_library(folder, made)


def test_every_row_is_found_by_what_it_was_built_for(whole_table: _C.Cubins) -> None:
    assert whole_table.architectures == set(ARCHITECTURES)
    listed = whole_table.listed()
    builds = compile_ahead.all_builds(ARCHITECTURES)
    assert len(listed) == len(builds)
    for row, build in zip(listed, builds, strict=True):
        assert row["arguments"] == " ".join(in_order(build).values())
        whole_table.family(build.kernel, build.architecture, build.configuration.key)


def test_what_was_not_built_is_named(whole_table: _C.Cubins) -> None:
    with pytest.raises(IndexError, match=r"rope\.rotate: no cubin for sm_120 of BLOCK=32"):
        whole_table.family("rope.rotate", 120, "BLOCK=32 stages=3 warps=1")


def run(script: str, *paths: Path) -> str:
    """What a process prints that has the stand-in for a driver and no torch; stderr if it fails."""
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from fake_cuda import Driver, Tensor\n"
        "from crucible_kitchen import _C\n" + script + "\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    return shared_library(HERE / "fake_libcuda.c", library, "-Wl,-soname,libcuda.so.1")


SWIGLU = """
driver = Driver(sys.argv[1])
cubins = _C.Cubins(sys.argv[2])
[row] = cubins.listed()
family = cubins.family("swiglu.forward", 90, row["configuration"])
gate, up, y = (Tensor("bf16", 0x1000 * i) for i in (1, 2, 3))
"""


def test_a_launch_says_what_it_should_to_the_driver(swiglu: Path, libcuda: Path) -> None:
    """The whole path: arguments packed, the device's context, the cubin loaded once, the launch."""
    script = (
        SWIGLU
        + """
driver.library.fake_words(6)
family.launch((4,), (gate, up, y, 4096))
print(*driver.log(), sep="\\n")
driver.library.fake_current(0)
family.launch((4,), (gate, up, y, 4096))
print("again", *driver.log(), sep="\\n")
other = [Tensor("bf16", 0x1000, device=1)] * 3
family.launch((1, 2, 3), (*other, 16))
print("elsewhere", *driver.log(), sep="\\n")
print(row["threads"], row["shared"])
"""
    )
    shown = run(script, libcuda, swiglu).splitlines()
    threads, shared = shown.pop().split()
    launch = f"launch 4 1 1 by {threads} 1 1, {shared} bytes, stream 7:"
    packed = [0x1000, 0x2000, 0x3000, 4096, 0, 0]  # two pointers to scratch memory are null
    launched = " ".join([launch, *(f"{word:016x}" for word in packed)])
    assert shown[: shown.index("again")] == [
        "retain 0",
        "push 0",
        "capture mode 2",
        "load ELF",
        "kernel _forward",
        f"attribute 8 = {shared} on 0",
        "capture mode 0",
        launched,
        "pop",
    ]
    # What a CUDA graph records: a launch and nothing else.
    assert shown[shown.index("again") + 1 : shown.index("elsewhere")] == [launched]
    elsewhere = shown[shown.index("elsewhere") + 1 :]
    assert elsewhere[:2] == ["retain 1", "push 1"]
    assert "load ELF" not in elsewhere, "one load serves every device"
    assert f"attribute 8 = {shared} on 1" in elsewhere
    assert elsewhere[-2].startswith(f"launch 1 2 3 by {threads} 1 1, {shared} bytes, stream 8:")
    assert int(threads) == 128


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("(gate, up, Tensor('bf16', 64, device=1), 16)", "every tensor must be on cuda:0, got cud"),
        ("(Tensor('bf16', 64, kind=1), up, y, 16)", "its tensors must be on CUDA, got cpu"),
        ("(gate, up, Tensor('bf16', 66), 16)", r"argument 2 must be \*bf16, a multiple of 16, got"
         r" \*bf16, 2 bytes past 16"),
        ("(gate, up, Tensor('fp16', 64), 16)", r"argument 2 must be \*bf16, .*, got \*fp16"),
        ("(gate, up, y, 17)", "argument 3 must be i64, a multiple of 16, got 17"),
        ("(gate, up, y, 2.5)", "argument 3 must be i64, a multiple of 16, got 2.5"),
        ("(gate, up, None, 16)", r"argument 2 must be \*bf16, a multiple of 16, got None"),
        ("(gate, up, y)", "it takes 4 arguments, got 3"),
        ("(gate, up, 'y', 16)", "an argument must be a tensor, got str"),
        ("(1, 2, 3, 16)", "at least one argument must be a tensor"),
    ],
)  # fmt: skip
def test_what_no_cubin_takes_is_refused_and_named(
    swiglu: Path, libcuda: Path, args: str, message: str
) -> None:
    script = (
        SWIGLU
        + f"""
import re
try:
    family.launch((1,), {args})
except (ValueError, TypeError) as e:
    assert re.search({message!r}, str(e)), e
    assert "swiglu.forward" in str(e)
else:
    raise AssertionError("it was launched")
print(driver.log())
"""
    )
    assert run(script, libcuda, swiglu) == "[]\n"


def test_more_than_2_to_the_31_elements_are_counted_in_64_bits(
    swiglu: Path, libcuda: Path, whole_table: _C.Cubins
) -> None:
    script = (
        SWIGLU
        + """
driver.library.fake_words(4)
family.launch((1,), (gate, up, y, 1 << 33))
print(driver.log()[-2].split()[-1])
"""
    )
    assert run(script, libcuda, swiglu) == f"{1 << 33:016x}\n"
    [row] = [
        row for row in whole_table.listed()
        if row["kernel"] == "rope.rotate" and row["architecture"] == 90
        and "BLOCK=64" in row["configuration"] and row["arguments"].startswith("*bf16")
    ]  # fmt: skip
    assert "i32:16" in row["arguments"], "a size that fits 32 bits is passed in 32"


def test_what_the_driver_says_is_told(swiglu: Path, libcuda: Path) -> None:
    script = (
        SWIGLU
        + """
driver.library.fake_fail(1)
family.launch((4, 5), (gate, up, y, 4096))
"""
    )
    shown = run(script, libcuda, swiglu)
    assert "swiglu.forward for sm_90: could not launch 4 x 5 x 1 blocks: invalid argument" in shown


def test_without_a_driver_the_error_says_so(swiglu: Path) -> None:
    script = (
        SWIGLU.replace("driver = Driver(sys.argv[1])", "")
        + """
family.launch((1,), (gate, up, y, 4096))
"""
    )
    assert "no CUDA driver: libcuda.so.1" in run(script, Path("none"), swiglu)


def test_a_library_without_cubins_is_named(libcuda: Path) -> None:
    with pytest.raises(RuntimeError, match="has no crucible_cubins"):
        _C.Cubins(str(libcuda))
    with pytest.raises(RuntimeError, match="nowhere"):
        _C.Cubins("nowhere.so")


def test_a_type_that_is_none_is_refused(tmp_path: Path) -> None:
    build = compile_ahead.all_builds([90], "swiglu.forward .*bf16")[0]
    made = [(build, Compiled(b"", "", 0, 0))]
    build_library(tmp_path, made)
    wrong = tmp_path / "wrong.cpp"
    wrong.write_text((tmp_path / "cubins.cpp").read_text().replace("i64:16", "i128"))
    cubins = _C.Cubins(str(shared_library(wrong, tmp_path / "wrong.so", f"-I{ROOT}")))
    with pytest.raises(ValueError, match="no type of an argument: i128"):
        cubins.family(build.kernel, 90, build.configuration.key)
